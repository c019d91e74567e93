"""Items embedded from identical pixels or numbers, so that a query can omit copies of itself."""

from collections.abc import Sequence

from anchorage.items import Item


class Copies:
    """The items of a store by the digests of their pixels.

    One thread applies changes at a time; others may ask meanwhile.
    """

    def __init__(self) -> None:
        self._pixels: dict[str, str] = {}  # of every item in the store; "" of one that is deleted or not known
        self._ids: dict[str, tuple[str, ...]] = {}

    def apply(self, items: Sequence[Item]) -> None:
        """Take over changed items in their latest state."""
        for item in items:
            before, now = self._pixels.get(item.id, ""), "" if item.deleted else item.pixels
            self._pixels[item.id] = now
            if before != now:
                self._set(before, tuple(id_ for id_ in self._ids.get(before, ()) if id_ != item.id))
                self._set(now, (*self._ids.get(now, ()), item.id))

    def _set(self, pixels: str, ids: tuple[str, ...]) -> None:
        if pixels and ids:
            self._ids[pixels] = ids
        else:
            self._ids.pop(pixels, None)

    def pixels(self, id: str) -> str | None:
        """Return the digest of an item in the store; None if the store does not have it."""
        return self._pixels.get(id)

    def ids(self, pixels: str, published: Sequence[str] = ()) -> list[str]:
        """Return the items with these pixels.

        Args:
            pixels: a digest.
            published: items of the release with these pixels, of which those that have changed since are left out.
        """
        unchanged = [id_ for id_ in published if id_ not in self._pixels]
        return [*unchanged, *self._ids.get(pixels, ())]
