"""Relevance grades of gallery items: from one label, two levels of labels, or several labels per image.

A grade is an integer from 0 (irrelevant) to `top`; for binary metrics an item is relevant if its grade is at least
`least`. One label: the same label is grade 1. Two levels: the same label is grade 2 and relevant, the same parent label
is grade 1 and not relevant. Several labels: the grade is the number of shared labels, and one makes an item relevant.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from anchorage.errors import DataError
from anchorage.retrieval.neighbors import Exclusions

_SHARED_ROWS = 256  # queries per block when shared labels are counted


class Relevance(Protocol):
    """Relevance as the metrics use it; `queries` are query numbers, `rows` are gallery rows."""

    top: int
    least: int

    def counts(self) -> np.ndarray:
        """Count the gallery items of grade 1, 2, ... `top`, without excluded ones: `(Q, top)` int64."""

    def grades(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the grades of pairs: `(n,)` int64."""

    def items(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the relevant pairs of some queries, without excluded ones: index in `queries`, sorted, and row."""


class ClassRelevance:
    """Relevance from one label per image, and optionally the parent of the label.

    Args:
        query_labels: `(Q,)` int64 codes.
        gallery_labels: `(M,)` int64 codes.
        exclusions: gallery rows that are excluded for each query.
        parents: `(C,)` int64 code of the parent of each label, or None.
    """

    least: int

    def __init__(
        self,
        query_labels: np.ndarray,
        gallery_labels: np.ndarray,
        exclusions: Exclusions,
        parents: np.ndarray | None = None,
    ):
        self.top = self.least = 1 if parents is None else 2
        self._labels, self._gallery, self._exclusions, self._parents = query_labels, gallery_labels, exclusions, parents
        self._order = np.argsort(gallery_labels, kind="stable")
        ordered = gallery_labels[self._order]
        self._starts, self._ends = (np.searchsorted(ordered, query_labels, side=side) for side in ("left", "right"))

    def counts(self) -> np.ndarray:
        same = self._count_matches(self._labels, self._gallery)
        if self._parents is None:
            return same[:, None]
        family = self._count_matches(self._parents[self._labels], self._parents[self._gallery])
        return np.stack([family - same, same], axis=1)

    def grades(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        labels, others = self._labels[queries], self._gallery[rows]
        grades = (labels == others).astype(np.int64)
        if self._parents is not None:
            grades += self._parents[labels] == self._parents[others]
        return grades

    def items(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sizes = self._ends[queries] - self._starts[queries]
        places = np.repeat(np.arange(len(queries)), sizes)
        firsts = np.cumsum(sizes) - sizes
        rows = self._order[np.arange(len(places)) - firsts[places] + self._starts[queries][places]]
        allowed = ~self._exclusions.excludes(queries[places], rows)
        return places[allowed], rows[allowed]

    def _count_matches(self, labels: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        """Count the gallery items of each query's label, without excluded ones."""
        excluded, size = self._exclusions, int(max(labels.max(initial=0), gallery.max(initial=0))) + 1
        matches = np.bincount(gallery, minlength=size)[labels]
        own = (excluded.own >= 0).astype(np.int64)
        if excluded.query_groups is None or excluded.gallery_groups is None:
            return matches - own
        grouped = excluded.gallery_groups >= 0
        keys, counts = np.unique(excluded.gallery_groups[grouped] * size + gallery[grouped], return_counts=True)
        query_keys = excluded.query_groups * size + labels
        at = np.minimum(np.searchsorted(keys, query_keys), max(0, len(keys) - 1))
        in_group = np.where(keys[at] == query_keys, counts[at], 0) if len(keys) else np.zeros_like(query_keys)
        return matches - np.where(excluded.query_groups >= 0, in_group, own)


class SharedRelevance:
    """Relevance from the number of labels that two images share.

    Args:
        query_labels: `(Q, L)` sparse 0/1 matrix (SciPy `csr_array`).
        gallery_labels: `(M, L)` sparse 0/1 matrix.
        exclusions: gallery rows that are excluded for each query.
    """

    least = 1

    def __init__(self, query_labels: Any, gallery_labels: Any, exclusions: Exclusions):
        self._labels, self._gallery, self._exclusions = query_labels, gallery_labels, exclusions
        self.top = int(np.max(query_labels.sum(axis=1), initial=1))

    def counts(self) -> np.ndarray:
        queries = self._labels.shape[0]
        counts = np.zeros((queries, self.top), np.int64)
        for first in range(0, queries, _SHARED_ROWS):
            block = np.arange(first, min(first + _SHARED_ROWS, queries))
            places, _, shared = self._shared(block)
            np.add.at(counts, (block[places], shared - 1), 1)
        return counts

    def grades(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        both = self._labels[queries].multiply(self._gallery[rows])
        return both.sum(axis=1).astype(np.int64)

    def items(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._shared(queries)[:2]

    def _shared(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return index in `queries`, gallery row and number of shared labels of all pairs that share a label."""
        shared = (self._labels[queries] @ self._gallery.T).tocsr()
        shared.sort_indices()
        places = np.repeat(np.arange(len(queries)), np.diff(shared.indptr))
        rows = shared.indices.astype(np.int64)
        allowed = ~self._exclusions.excludes(queries[places], rows)
        return places[allowed], rows[allowed], shared.data[allowed].astype(np.int64)


def encode_labels(labels: Any) -> tuple[np.ndarray | None, Any]:
    """Encode labels as class codes `(M,)`, or, for several labels per row, as a sparse 0/1 matrix `(M, L)`.

    Args:
        labels: `(M,)` numbers or names; or, for several labels per row, a sequence of sets, lists or tuples, or an
            `(M, L)` matrix of 0 and 1.

    Returns:
        Tuple of codes and matrix, one of which is None.

    Raises:
        DataError: `E_LABELS` for a matrix with values other than 0 and 1.
    """
    if isinstance(labels, np.ndarray) and labels.ndim == 2:
        from scipy.sparse import csr_array

        if not np.isin(labels, (0, 1)).all():
            raise DataError("E_LABELS", "Expected 0 and 1 in a matrix of labels. Received: other values")
        return None, csr_array(labels.astype(np.int64))
    if len(labels) and isinstance(labels[0], (set, frozenset, list, tuple)):
        return None, _indicators(labels)
    return np.unique(np.asarray(labels), return_inverse=True)[1].astype(np.int64), None


def parents_of(codes: np.ndarray, parents: Sequence | np.ndarray) -> np.ndarray:
    """Return the parent code `(C,)` of each class code, from the parents of the rows.

    Raises:
        DataError: `E_LABELS` if the rows of a class have different parents, or the lengths differ.
    """
    if len(parents) != len(codes):
        raise DataError("E_LABELS", f"Expected a parent label for each of {len(codes)} rows. Received: {len(parents)}")
    row_parents = np.unique(np.asarray(parents), return_inverse=True)[1].astype(np.int64)
    class_parents = np.zeros(codes.max(initial=-1) + 1, np.int64)
    class_parents[codes] = row_parents
    if mixed := int((class_parents[codes] != row_parents).sum()):
        raise DataError(
            "E_LABELS", f"Expected the same parent for all rows of a class. Received: another parent in {mixed} rows"
        )
    return class_parents


def encode_groups(groups: Sequence | np.ndarray) -> np.ndarray:
    """Encode group names as `(M,)` int64 codes; "" is no group and becomes -1."""
    names = np.asarray(groups)
    codes = np.unique(names, return_inverse=True)[1].astype(np.int64)
    return np.where(names == "", -1, codes) if names.dtype.kind in "OUS" else codes


def _indicators(labels: Sequence[Iterable]) -> Any:
    from scipy.sparse import csr_array

    columns: dict[Any, int] = {}
    sets = [{columns.setdefault(label, len(columns)) for label in row} for row in labels]
    starts = np.cumsum([0, *map(len, sets)])
    indices = np.array([column for row in sets for column in sorted(row)], np.int64)
    return csr_array((np.ones(len(indices), np.int64), indices, starts), shape=(len(sets), max(1, len(columns))))
