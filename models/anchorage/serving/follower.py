"""A live index that follows its store: each gateway applies what any gateway wrote, and rebuilds when it must."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

import numpy as np

from anchorage.errors import AnchorageError
from anchorage.items import Item, check_items
from anchorage.release import Release
from anchorage.release.items import ItemStore, OutdatedError
from anchorage.retrieval.audit import audit
from anchorage.retrieval.index import load_index, load_vectors
from anchorage.retrieval.live import LiveIndex
from anchorage.retrieval.table import read_ids
from anchorage.serving.copies import Copies
from anchorage.serving.embedders import Embedder

if TYPE_CHECKING:  # TensorFlow is not imported to read a gallery
    from anchorage.serving.queries import QueryCheck

_PAGE = 10_000  # changes per read
_BATCH = 64  # images embedded at once
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """When a live index is rebuilt.

    Args:
        changed_share: largest share of rows changed since the index was built.
        changed_rows: changes below this number never cause a rebuild: comparing so few costs next to nothing.
        measured_rows: changes after which the recall is measured again.
        queries: items searched to measure it. It is compared with the recall that the index was built for.
    """

    changed_share: float = 0.1
    changed_rows: int = 1_000
    measured_rows: int = 5_000
    queries: int = 200


def load_live_index(release: Release, dimension: int | None = None) -> LiveIndex:
    """Load the index of a release, without items added since.

    Args:
        release: a verified release.
        dimension: dimension of the embeddings, if known.

    Raises:
        DataError: `E_RELEASE_MIXED` if index, gallery and vectors do not fit together, `E_QUERY_SHAPE` if the
            dimensions differ.
    """
    index = load_index(release.index_folder, dimension=dimension)
    return LiveIndex(index, read_ids(release.gallery_path), load_vectors(release.index_folder))


class Follower:
    """Keeps a live index at the last change of a store.

    Items whose vectors another model made are embedded again, once, if their image is stored. One of the release itself
    that has kept its image, such as after a change of its label, has the release's vector; others are left out. The
    store keeps the new vectors beside the old, so that an earlier release finds its own after a rollback.

    Args:
        live: index of a release.
        store: items, which other processes may change, too.
        embedder: model of this release; None if items of other models are to be left out.
        check: its check of images; given with `embedder`.
        fingerprint: of the model that made the vectors of the index.
        limits: when to rebuild.

    Attributes:
        live: the current index; take it once per request.
        copies: the items of the store by their pixels.
        left_out: ids of items that are not searchable under this model.
        recall: last measured recall, or None.
        rebuilds: number of rebuilt indexes that were switched in.
        fault: why following or rebuilding fails at the moment, or "".
    """

    def __init__(
        self,
        live: LiveIndex,
        store: ItemStore,
        *,
        fingerprint: str,
        embedder: Embedder | None = None,
        check: "QueryCheck | None" = None,
        limits: Limits | None = None,
    ):
        self.live = live
        self.store = store
        self.copies = Copies()
        self.left_out: set[str] = set()
        self.recall: float | None = None
        self.rebuilds = 0
        self.fault = ""
        self._embedder, self._check, self._fingerprint = embedder, check, fingerprint
        self._limits = limits or Limits()
        self._lock = Lock()  # of whoever applies changes or switches the index
        self._rebuilding = Lock()
        self._measured_at = live.change
        self._rebuild_fault, self._retry_from = "", 0
        self._stop = Event()
        self._thread: Thread | None = None

    def start(self, poll_seconds: float = 1.0) -> None:
        """Follow the store in a thread, and rebuild when a limit is passed, until `stop`."""
        self._thread = Thread(target=self._follow, args=(poll_seconds,), name="anchorage-follower", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop following; waits for the change or the rebuild at hand."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def catch_up(self) -> int:
        """Apply all changes of the store, and return the number of the last one.

        Raises:
            ResourceError: `E_STORE_UNAVAILABLE`.
        """
        with self._lock:
            return self._catch_up(self.live)

    def write(self, items: Sequence[Item], seen: int | None = None) -> int:
        """Store a batch under the fingerprint of this model and apply it; when this returns, it is durable.

        Args:
            items: latest states, and deletions.
            seen: last change of the state that they were made from; None if they do not depend on one.

        Returns:
            The change number of the last item.

        Raises:
            DataError: `E_ITEMS_EMPTY`, `E_ITEMS_REFUSED` with every fault, such as a deletion of an unknown item;
                nothing is stored.
            OutdatedError: if another gateway has changed one of the items after `seen`; nothing is stored.
            ResourceError: `E_STORE_UNAVAILABLE`.
        """
        while True:
            last = self.catch_up()  # what others deleted is unknown
            check_items(items, self.live.dimension, self.knows)
            states = [replace(item, fingerprint=self._fingerprint) for item in items]
            try:
                change = self.store.write(states, last if seen is None else seen)
                break
            except OutdatedError:
                if seen is not None:
                    raise
        try:
            self.catch_up()
        except AnchorageError as error:  # the batch is stored, and applied as soon as the store answers again
            _log.warning("changes up to %d are stored, but not applied yet: %s", change, error)
        return change

    def knows(self, id: str) -> bool:
        """Return whether there is an item of this id, searchable or left out."""
        return id in self.left_out or self.live.item(id) is not None

    def needs_rebuild(self) -> bool:
        """Return whether a limit is passed; measures the recall if enough has changed since the last time."""
        live, limits = self.live, self._limits
        changed = live.changed_share() * live.index.rows
        if changed < limits.changed_rows or live.rows < 2 or live.change < self._retry_from:
            return False
        if live.changed_share() > limits.changed_share:
            return True
        if live.change - self._measured_at < limits.measured_rows:
            return False
        self._measured_at = live.change
        self.recall = audit(live, queries=limits.queries, seed=live.change).recall
        return self.recall < live.index.facts.get("min_recall", 0.0)

    def rebuild(self) -> None:
        """Build a new index of the current items, apply what changed meanwhile, and switch to it.

        Searches and writes go on meanwhile.

        Raises:
            DataError: `E_INDEX_EMPTY` if there are no items.
            GateError: `E_INDEX_RECALL` or `E_INDEX_LIMITS`; the index at hand stays.
        """
        with self._rebuilding:
            rebuilt = self.live.rebuilt()
            recall = rebuilt.index.facts["recall"]
            with self._lock:
                self._measured_at = self._catch_up(rebuilt)
                self.live, self.recall = rebuilt, recall
                self.rebuilds += 1
        _log.info("rebuilt the index: %d items, recall %.4f", rebuilt.rows, recall)

    def _follow(self, poll_seconds: float) -> None:
        builder: Thread | None = None
        while not self._stop.wait(poll_seconds):
            try:
                self.catch_up()
                self.fault = self._rebuild_fault
                if (builder is None or not builder.is_alive()) and self.needs_rebuild():
                    builder = Thread(target=self._try_to_rebuild, name="anchorage-rebuild", daemon=True)
                    builder.start()
            except Exception as error:  # any failure is retried, and searches continue meanwhile
                if str(error) != self.fault:
                    _log.warning("the live index is not up to date: %s", error)
                self.fault = str(error)
        if builder is not None:
            builder.join()

    def _try_to_rebuild(self) -> None:
        change = self.live.change
        try:
            self.rebuild()
            self._rebuild_fault = ""
        except Exception as error:
            _log.warning("the index was not rebuilt: %s", error)
            self._rebuild_fault = str(error)
            self._retry_from = change + self._limits.changed_rows  # the same items fail again

    def _catch_up(self, live: LiveIndex) -> int:
        while changes := self.store.changes(live.change, _PAGE):
            searchable = self._searchable(changes)
            live.apply(searchable)
            self.copies.apply(searchable)
        return live.change

    def _searchable(self, changes: Sequence[Item]) -> list[Item]:
        """The changes with vectors of this model; an item that has none is deleted from this index."""
        foreign = [item for item in changes if not item.deleted and not self._fits(item)]
        embedded = {item.id: item for item in self._published(foreign)}
        others = [item for item in foreign if item.id not in embedded]
        embedded |= {item.id: item for item in self.store.kept_vectors(others, self._fingerprint)}
        if new := self._embed([item for item in foreign if item.id not in embedded]):
            self.store.keep_vectors(new)
            embedded |= {item.id: item for item in new}
        self.left_out -= {item.id for item in changes}
        self.left_out |= {item.id for item in foreign if item.id not in embedded}
        result = []
        for item in changes:
            if item.deleted or self._fits(item):
                result.append(item)
            elif item.id in embedded:
                result.append(embedded[item.id])
            else:
                result.append(Item(item.id, change=item.change, deleted=True))
        return result

    def _fits(self, item: Item) -> bool:
        fits = item.vector is not None and item.vector.shape == (self.live.dimension,)
        return fits and item.fingerprint == self._fingerprint

    def _published(self, items: Sequence[Item]) -> list[Item]:
        """Return those items that the release has with the same image, with its vectors."""
        found = []
        for item in items:
            if (vector := self.live.published(item.id, item.pixels)) is not None:
                found.append(replace(item, vector=vector, fingerprint=self._fingerprint))
        return found

    def _embed(self, items: Sequence[Item]) -> list[Item]:
        """Return those items whose images are stored and can be embedded, with vectors of this model."""
        if self._embedder is None or self._check is None or self._embedder.takes_vectors:
            return []
        embedded: list[Item] = []
        for start in range(0, len(items), _BATCH):
            batch = items[start : start + _BATCH]
            images = self.store.images([item.id for item in batch])
            checked = [(item, self._check(images[item.id])) for item in batch if item.id in images]
            valid = [(item, each) for item, each in checked if not each.fault]
            vectors = self._embedder.embed([each.record for _, each in valid])
            usable = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
            embedded += [
                replace(item, vector=vector, fingerprint=self._fingerprint, pixels=each.pixels)
                for (item, each), vector, fits in zip(valid, vectors, usable.tolist(), strict=True)
                if fits
            ]
        return embedded
