"""An index that follows changes: the index of a release, and the rows added, changed and deleted since.

Rows of the release are searched by ScaNN, changed ones exactly, by one product with a small matrix; rows that were
changed or deleted are dropped from ScaNN's results. ScaNN's own upsert is not used: it needs ids inside ScaNN, which
stores them as a pickle and executes its code when it loads them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from threading import Lock
from typing import NamedTuple

import numpy as np

from anchorage.data.tables import ATTRIBUTE
from anchorage.errors import DataError, UsageError
from anchorage.items import Item, check_items
from anchorage.retrieval.changes import Added, State
from anchorage.retrieval.exact import best_rows
from anchorage.retrieval.filters import Column, Filter, Keys, matching_rows
from anchorage.retrieval.gathered import GatheredVectors
from anchorage.retrieval.index import Index, check_queries, search
from anchorage.retrieval.index_building import SHARD_ROWS, build_index
from anchorage.retrieval.index_tuning import IndexLimits

_EXACT_ROWS = 2_000  # matching rows up to which a filtered search compares all of them,
_EXACT_PER_FETCHED = 6  # or matching rows for each that it would fetch: that takes as long, and finds less
_DEVIATIONS = 3  # of the number of matches among fetched rows: how many more are fetched than suffice on average
_LEAVES = 3  # leaves searched for a filter, per leaf that the index was tuned for and per leaf full of rows fetched
_SPARE = 16  # rows fetched for ones that may be deleted or filtered out


class Hits(NamedTuple):
    """Results of one query, nearest first.

    Args:
        ids: `(n,)` object array of str.
        labels: `(n,)` object array of str.
        scores: `(n,)` float32 inner products, cosines for unit vectors.
        attributes: values by name of each result; items without an attribute lack its name.
    """

    ids: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    attributes: list[dict[str, str]]


class LiveIndex:
    """Searches a gallery that changes.

    Searches from several threads, also during `apply`, see the gallery before or after a batch of changes, never half
    of it.

    Args:
        index: index of the release.
        gallery: columns of its rows from `read_ids`: `id`, `label`, `attribute/<name>` for each attribute and, if it is
            known what was embedded, `pixels`.
        vectors: `(M, D)` float32 in the order of the rows, such as `load_vectors` maps.
        change: number of the last change that these rows contain.

    Raises:
        DataError: `E_RELEASE_MIXED` if the numbers of rows or the dimensions differ.
    """

    def __init__(self, index: Index, gallery: Mapping[str, np.ndarray], vectors: np.ndarray, change: int = 0):
        sizes = {"index": index.rows, "ids": len(gallery["id"]), "vectors": len(vectors)}
        if len(set(sizes.values())) > 1 or vectors.shape[1:] != (index.dimension,):
            raise DataError(
                "E_RELEASE_MIXED",
                f"Expected one id and one vector of {index.dimension} numbers per row of the index. Received: {sizes}, "
                f"vectors of shape {vectors.shape}",
            )
        self.index = index
        self._vectors = vectors
        self._ids, self._labels = gallery["id"], gallery["label"]
        self._row_of = {id_: row for row, id_ in enumerate(self._ids.tolist())}
        self._published = self._row_of, gallery.get("pixels"), vectors  # of the release, also after a rebuild
        self._attributes = {
            name.removeprefix(ATTRIBUTE): Column(values)
            for name, values in gallery.items()
            if name.startswith(ATTRIBUTE)
        }
        self._by_id, self._by_label = Keys(self._row_of), Column(self._labels)
        self._gathered = GatheredVectors(vectors)
        self._added_row: dict[str, int] = {}
        self._lock = Lock()  # of writers
        self._state = State(change, np.ones(index.rows, bool), 0, Added.empty(index.dimension), np.ones(0, bool))

    @property
    def change(self) -> int:
        """Number of the last change applied."""
        return self._state.change

    @property
    def rows(self) -> int:
        """Number of searchable items."""
        return self._state.rows

    @property
    def dimension(self) -> int:
        return self.index.dimension

    def changed_share(self) -> float:
        """Rows added, changed and deleted since the index was built, per row of the index."""
        state = self._state
        return (state.dead + state.rows_added) / max(1, len(state.alive))

    def apply(self, items: Sequence[Item]) -> None:
        """Apply changes; those with a number up to `change`, which were applied before, are skipped.

        Args:
            items: from a store, in the order of change numbers; or with number 0, always applied. An id may occur
                once.

        Raises:
            DataError: `E_ITEMS_REFUSED`; nothing is applied.
        """
        with self._lock:
            state = self._state
            items = [item for item in items if not item.change or item.change > state.change]
            if not items:
                return
            check_items(items, self.dimension)
            self._state, self._added_row = state.with_changes(items, self._row_of, self._added_row)

    def search(
        self,
        vectors: np.ndarray,
        k: int,
        where: Filter | None = None,
        leave_out: Sequence[Sequence[str]] | None = None,
    ) -> list[Hits]:
        """Find the nearest items of each query.

        Args:
            vectors: `(N, D)` floats, rows of unit length.
            k: number of results, at least 1; fewer where fewer items match.
            where: conditions on the results. Few matching items are compared one by one, from a copy of their vectors
                if the filter is repeated; of many, the nearest rows are fetched until enough of them match.
            leave_out: ids left out of the results of each query, such as its own.

        Raises:
            DataError: `E_QUERY_SHAPE`, `E_VECTOR_NOT_FINITE`.
            UsageError: `E_NEIGHBORS` if `k < 1`.
        """
        if k < 1:
            raise UsageError("E_NEIGHBORS", f"Expected `k` of at least 1. Received: k={k}")
        queries = check_queries(vectors, self.dimension)
        state = self._state
        names = leave_out if leave_out is not None else [()] * len(queries)
        base = self._search_base(state, queries, k, where, self._rows_of(names))
        added = self._search_added(state, queries, k, where, names)
        return [self._hits(state, k, *found) for found in zip(*base, *added, strict=True)]

    def item(self, id: str) -> Item | None:
        """Return an item with its vector; None if there is none of this id."""
        with self._lock:  # the rows of ids change with the state
            state, row = self._state, self._added_row.get(id)
        if row is not None:
            return state.item(row)
        row = self._row_of.get(id)
        return None if row is None or not state.alive[row] else self._item(row)

    def vector(self, id: str) -> np.ndarray | None:
        """Return the `(D,)` vector of an item; None if there is none of this id."""
        item = self.item(id)
        return None if item is None else item.vector

    def published(self, id: str, pixels: str) -> np.ndarray | None:
        """Return the `(D,)` vector that the release has of an item, changed since or not, if it is of these pixels."""
        row_of, digests, vectors = self._published
        row = row_of.get(id)
        if row is None or not pixels or digests is None or digests[row] != pixels:
            return None
        return np.array(vectors[row])

    def items(self, where: Filter | None = None) -> Iterator[Item]:
        """Yield the items that meet the conditions: those of the release in its order, then those added in theirs."""
        state = self._state
        base = np.flatnonzero(state.alive) if where is None else self._matching(state, where)
        for row in base.tolist():
            yield self._item(row)
        for row in state.matching_added(where).tolist():
            yield state.item(row)

    def sample(self, count: int, seed: int) -> list[Item]:
        """Return at most `count` items, drawn at random without repetition."""
        state = self._state
        base, added = np.flatnonzero(state.alive), np.flatnonzero(state.alive_added)
        drawn = np.sort(np.random.default_rng(seed).permutation(len(base) + len(added))[:count])
        from_base = [self._item(row) for row in base[drawn[drawn < len(base)]].tolist()]
        return from_base + [state.item(row) for row in added[drawn[drawn >= len(base)] - len(base)].tolist()]

    def attribute_values(self, most: int = 20) -> dict[str, list[tuple[str, int]]]:
        """Return the most frequent values of each attribute with their numbers of items, most frequent first."""
        state = self._state
        counts = {name: column.counts(state.alive) for name, column in self._attributes.items()}
        for row in np.flatnonzero(state.alive_added).tolist():
            for name, value in state.added.attributes[row].items():
                of_name = counts.setdefault(name, {})
                of_name[value] = of_name.get(value, 0) + 1
        order = {name: sorted(values.items(), key=lambda each: (-each[1], each[0])) for name, values in counts.items()}
        return {name: [each for each in values if each[0] and each[1]][:most] for name, values in order.items()}

    def rebuilt(self) -> "LiveIndex":
        """Build a new index over the current items, while this one goes on.

        Returns:
            A live index whose `change` is that of the moment of the call: the caller applies later changes to it.

        Raises:
            DataError: `E_INDEX_EMPTY` if there are no items.
            GateError: `E_INDEX_RECALL` or `E_INDEX_LIMITS` if no parameters keep to the recall and the memory that the
                index was built for.
        """
        state = self._state
        base, added = np.flatnonzero(state.alive), np.flatnonzero(state.alive_added)
        vectors = np.concatenate([self._vectors[base], state.vectors[added]])
        rows = added.tolist()
        gallery = {
            "id": np.concatenate([self._ids[base], _texts([state.added.ids[row] for row in rows])]),
            "label": np.concatenate([self._labels[base], _texts([state.added.labels[row] for row in rows])]),
        }
        attributes = [state.added.attributes[row] for row in rows]
        for name in sorted(set(self._attributes).union(*attributes)):
            old = self._attributes.get(name, self._blank).values[base]
            gallery[f"{ATTRIBUTE}{name}"] = np.concatenate([old, _texts([each.get(name, "") for each in attributes])])
        facts = self.index.facts
        # Without the limit of the time of single searches: those that are served meanwhile slow them down.
        limits = IndexLimits(
            facts.get("min_recall", IndexLimits.min_recall), max_memory_mib=facts.get("max_memory_mib", 0)
        )
        built = build_index(
            vectors,
            ids=gallery["id"],
            neighbors=facts.get("neighbors", 10),
            limits=limits,
            shard_rows=facts.get("shard_rows", SHARD_ROWS),
        )
        rebuilt = LiveIndex(Index(built.searcher, {**facts, **built.facts}), gallery, vectors, state.change)
        rebuilt._published = self._published
        return rebuilt

    def exact(self, vectors: np.ndarray, k: int, leave_out: Sequence[Sequence[str]] | None = None) -> list[Hits]:
        """Find the nearest items by comparing every one: what `search` is measured against."""
        queries, state = check_queries(vectors, self.dimension), self._state
        names = leave_out if leave_out is not None else [()] * len(queries)
        base = self._compare(state, queries, k, None, self._rows_of(names))
        added = self._search_added(state, queries, k, None, names)
        return [self._hits(state, k, *found) for found in zip(*base, *added, strict=True)]

    def _search_base(
        self, state: State, queries: np.ndarray, k: int, where: Filter | None, own: Sequence[Sequence[int]]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Rows of the release and their scores, for each query."""
        rows = [np.empty(0, np.int64)] * len(queries)
        scores = [np.empty(0, np.float32)] * len(queries)
        total = len(state.alive)
        need = k + max(map(len, own), default=0)
        conditions = self._conditions(where)
        fewest = min((column.count(allowed) for column, allowed in conditions), default=total)
        pending = np.arange(len(queries)) if fewest and len(state.alive) > state.dead else np.arange(0)
        compare = False
        width = need + min(state.dead, _SPARE)
        if conditions and fewest:
            share = math.prod(column.count(allowed) / total for column, allowed in conditions)
            width = math.ceil((width + _DEVIATIONS * math.sqrt(width)) / share) + _SPARE
            compare = fewest <= max(_EXACT_ROWS, _EXACT_PER_FETCHED * width)
        while len(pending) and not compare:
            width = min(width, total)
            found, similarities = search(self.index, queries[pending], width, self._leaves(width) if conditions else 0)
            keep = state.alive[found]
            for column, allowed in conditions:
                keep &= column.keeps(found, allowed)
            short = []
            for place, query in enumerate(pending.tolist()):
                keep[place] &= ~np.isin(found[place], own[query])
                rows[query], scores[query] = found[place][keep[place]], similarities[place][keep[place]]
                if len(rows[query]) < k and found.shape[1] < total:
                    short.append(query)
            pending = np.array(short, np.int64)
            compare = bool(conditions)  # neighbors and matches lie apart
            width *= 4
        if len(pending):
            compared = self._compare(state, queries[pending], k, where, [own[at] for at in pending.tolist()])
            for query, found, similarities in zip(pending.tolist(), *compared, strict=True):
                rows[query], scores[query] = found, similarities
        return rows, scores

    def _compare(
        self, state: State, queries: np.ndarray, k: int, where: Filter | None, own: Sequence[Sequence[int]]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """The nearest matching rows of the release and their scores, for each query, without its own rows."""
        need = k + max(map(len, own), default=0)
        if where is None:
            rows, gathered = np.arange(len(state.alive)), None
        else:
            rows, gathered = self._gathered.find(where, lambda: matching_rows(self._conditions(where)))
        valid = np.flatnonzero(state.alive[rows]) if state.dead else np.arange(len(rows))
        if gathered is None:
            found, scores = best_rows(queries, self._vectors, need, rows[valid])
        else:
            places, scores = best_rows(queries, gathered, need, valid)
            found = rows[places]
        kept = [~np.isin(each, left) for each, left in zip(found, own, strict=True)]
        return (
            [each[keep] for each, keep in zip(found, kept, strict=True)],
            [each[keep] for each, keep in zip(scores, kept, strict=True)],
        )

    def _leaves(self, width: int) -> int:
        """Leaves to search for a filter, which leaves results further away than those that the index was tuned for."""
        facts = self.index.facts
        per_leaf = facts["rows"] / max(1, facts["leaves"])
        return _LEAVES * (facts["leaves_to_search"] + math.ceil(width / per_leaf))

    def _search_added(
        self, state: State, queries: np.ndarray, k: int, where: Filter | None, names: Sequence[Sequence[str]]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Added rows and their scores, for each query."""
        matching = state.matching_added(where)
        need = k + max(map(len, names), default=0)
        found, scores = best_rows(queries, state.vectors, need, matching)
        keep = [
            np.array([state.added.ids[row] not in left for row in each.tolist()], bool)
            for each, left in zip(found, names, strict=True)
        ]
        return (
            [each[kept] for each, kept in zip(found, keep, strict=True)],
            [each[kept] for each, kept in zip(scores, keep, strict=True)],
        )

    def _conditions(self, where: Filter | None) -> list[tuple[Column | Keys, frozenset[str]]]:
        if where is None:
            return []
        named: list[tuple[Column | Keys, frozenset[str] | None]]
        named = [(self._by_id, where.ids), (self._by_label, where.labels)]
        named += [(self._attributes.get(name, self._blank), values) for name, values in where.attributes.items()]
        return [(column, values) for column, values in named if values is not None]

    def _matching(self, state: State, where: Filter | None) -> np.ndarray:
        """Rows of the release that are valid and meet the conditions, ascending."""
        conditions = self._conditions(where)
        if not conditions:
            return np.flatnonzero(state.alive)
        rows = matching_rows(conditions)
        return rows[state.alive[rows]]

    @cached_property
    def _blank(self) -> Column:
        """The column of an attribute that the release does not have."""
        return Column(np.full(len(self._ids), "", object))

    def _rows_of(self, names: Sequence[Sequence[str]]) -> list[list[int]]:
        """Rows of the release by the ids of each query."""
        return [[row for name in ids if (row := self._row_of.get(name)) is not None] for ids in names]

    def _item(self, row: int) -> Item:
        return Item(self._ids[row], self._labels[row], self._attributes_of(row), np.array(self._vectors[row]))

    def _attributes_of(self, row: int) -> dict[str, str]:
        values = {name: column.values[row] for name, column in self._attributes.items()}
        return {name: value for name, value in values.items() if value}

    def _hits(
        self,
        state: State,
        k: int,
        rows: np.ndarray,
        scores: np.ndarray,
        added_rows: np.ndarray,
        added_scores: np.ndarray,
    ) -> Hits:
        """Merge the results of one query."""
        merged = np.concatenate([scores, added_scores])
        order = np.argsort(-merged, kind="stable")[:k]
        ids, labels, attributes = [], [], []
        for place in order.tolist():
            if place < len(rows):
                row = int(rows[place])
                ids.append(self._ids[row])
                labels.append(self._labels[row])
                attributes.append(self._attributes_of(row))
            else:
                row, added = int(added_rows[place - len(rows)]), state.added
                ids.append(added.ids[row])
                labels.append(added.labels[row])
                attributes.append(dict(added.attributes[row]))
        return Hits(_texts(ids), _texts(labels), merged[order], attributes)


def _texts(values: Sequence[str]) -> np.ndarray:
    """An `(n,)` object array, also of no values."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
