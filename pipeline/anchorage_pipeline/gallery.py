"""The gallery of a release as a service has it: its rows, and the items added, changed and deleted since."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anchorage.errors import UsageError

if TYPE_CHECKING:
    from anchorage.release import Release
    from anchorage.retrieval.live import LiveIndex


_SQLITE = "sqlite:///"


class Gallery(NamedTuple):
    """A live index at the last change of its store.

    Args:
        live: the index.
        left_out: ids of items that are not searchable, as another model made their vectors.
        store: URL of the items without password; "" if the release has none.
    """

    live: "LiveIndex"
    left_out: list[str]
    store: str


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the database of the items."""
    parser.add_argument(
        "--store",
        metavar="URL",
        help="items added since: sqlite:///PATH or postgresql://... (default: items.sqlite beside the releases)",
    )


def open_gallery(release: "Release", store: str | None) -> Gallery:
    """Load the index of a release, and apply the changes of a store.

    Args:
        release: a verified release.
        store: URL of the items; None for the file beside the releases, if there is one.

    Raises:
        UsageError: E_STORE_URL, also if there is no such file of SQLite; E_EXTRA_MISSING.
        ResourceError: E_STORE_UNAVAILABLE.
        DataError: E_RELEASE_MIXED, E_INDEX_DAMAGED.
    """
    from anchorage.release.items import ItemStore, find_store
    from anchorage.serving.follower import Follower, load_live_index

    live = load_live_index(release)
    if store and store.startswith(_SQLITE) and not Path(store.removeprefix(_SQLITE)).is_file():
        raise UsageError("E_STORE_URL", f"Expected a database of items to read. Received: {store}, where no file is")
    url = store or find_store(release.folder)
    if url is None:
        return Gallery(live, [], "")
    items = ItemStore(url)
    follower = Follower(live, items, fingerprint=release.model_fingerprint)
    follower.catch_up()
    return Gallery(follower.live, sorted(follower.left_out), items.name)
