"""Items of a gallery that changes while it is served: their fields, and the validation of a batch of changes."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from anchorage.errors import DataError

LONGEST = 1024  # characters of an id, a label, and a name or value of an attribute
_SHOWN = 20  # faults in one message


@dataclass(frozen=True, eq=False)  # arrays do not compare to one truth value
class Item:
    """One added, changed or deleted item of a gallery.

    Args:
        id: unique name.
        label: class name; "" if unknown.
        attributes: text values by name, to filter by.
        vector: `(D,)` float32 embedding of unit length; None for a deleted item.
        change: number of the write that made this state, given by the store; 0 before.
        fingerprint: of the model that made the vector.
        image: encoded image, where images are kept.
        deleted: whether the item is gone, whether it was added or belongs to the release.
        pixels: digest of the resized pixels, or of the numbers, that were embedded; "" if it is not known.
    """

    id: str
    label: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    vector: np.ndarray | None = None
    change: int = 0
    fingerprint: str = ""
    image: bytes | None = None
    deleted: bool = False
    pixels: str = ""


class ItemFault(NamedTuple):
    """A fault of one item of a batch.

    Args:
        place: position in the batch: first the items to put, then those to delete.
        id: id of the item.
        code: stable name of the fault.
        message: what was expected and what was received.
    """

    place: int
    id: str
    code: str
    message: str


def item_faults(
    items: Sequence[Item],
    dimension: int | None = None,
    known: Callable[[str], bool] | None = None,
) -> list[ItemFault]:
    """Find everything that is wrong with a batch.

    Args:
        items: items to put or, with `deleted`, to delete.
        dimension: dimension of the vectors; None for any.
        known: whether there is an item of this id, for deletions; None for yes.

    Returns:
        The faults in the order of the batch, several per item if it has several; an empty batch has none.
    """
    times = Counter(item.id for item in items)
    faults = []
    for place, item in enumerate(items):
        found = [*_text_faults(item)]
        if times[item.id] > 1:
            found.append(("E_ID_DUPLICATE", f"Expected each id once in a batch. Received: {times[item.id]} times"))
        if not item.deleted:
            found += _vector_faults(item.vector, dimension)
        elif known is not None and not known(item.id):
            found.append(("E_ITEM_UNKNOWN", "Expected the id of an item to delete. Received: an id that no item has"))
        faults += [ItemFault(place, item.id, code, message) for code, message in found]
    return faults


def check_items(
    items: Sequence[Item],
    dimension: int | None = None,
    known: Callable[[str], bool] | None = None,
) -> None:
    """Raise one error that names every fault of a batch; see `item_faults` for the arguments.

    Raises:
        DataError: `E_ITEMS_EMPTY` for a batch without items; `E_ITEMS_REFUSED` with all faults.
    """
    if not items:
        raise DataError("E_ITEMS_EMPTY", "Expected at least one item to write or delete. Received: none")
    faults = item_faults(items, dimension, known)
    if faults:
        raise refused(faults)


def refused(faults: Sequence[ItemFault]) -> DataError:
    """Return the error for a batch with these faults, of which nothing is applied."""
    lines = [f"item {fault.place} ({fault.id[:80]!r}): {fault.code}: {fault.message}" for fault in faults[:_SHOWN]]
    more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return DataError(
        "E_ITEMS_REFUSED",
        f"Expected a batch without faults; nothing of it is applied. Received: {'; '.join(lines)}{more}",
    )


def _text_faults(item: Item) -> Iterable[tuple[str, str]]:
    texts = {"id": item.id, "label": item.label, **{f"attribute {name!r:.40}": name for name in item.attributes}}
    texts |= {f"value of the attribute {name!r:.40}": value for name, value in item.attributes.items()}
    if not item.id:
        yield "E_ITEM_TEXT", "Expected an id. Received: an empty one"
    for name, text in texts.items():
        if not isinstance(text, str):
            yield "E_ITEM_TEXT", f"Expected text as {name}. Received: {type(text).__name__}"
        elif len(text) > LONGEST:
            yield "E_ITEM_TEXT", f"Expected at most {LONGEST} characters as {name}. Received: {len(text)}"
        elif "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            yield "E_ITEM_TEXT", f"Expected text without NUL and unpaired surrogates as {name}"


def _vector_faults(vector: np.ndarray | None, dimension: int | None) -> list[tuple[str, str]]:
    if vector is None:
        return [("E_VECTOR_SHAPE", "Expected a vector. Received: none")]
    vector = np.asarray(vector)
    if vector.ndim != 1 or not vector.size or vector.dtype.kind != "f":
        received = f"shape {vector.shape}, dtype {vector.dtype}"
        return [("E_VECTOR_SHAPE", f"Expected a vector of floats. Received: {received}")]
    faults = []
    if dimension not in (None, len(vector)):
        faults.append(("E_VECTOR_SHAPE", f"Expected {dimension} numbers. Received: {len(vector)}"))
    if not np.isfinite(vector).all():
        faults.append(("E_VECTOR_NOT_FINITE", "Expected finite numbers. Received: NaN or infinity"))
    elif not vector.any():
        faults.append(("E_VECTOR_ZERO", "Expected a vector with a direction. Received: zeros"))
    return faults
