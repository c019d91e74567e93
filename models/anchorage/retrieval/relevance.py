"""Which gallery items answer a query, and how well: one label, two levels of labels, or many labels an image.

A grade is a whole number from 0 (irrelevant) to `top`; an item is relevant, for every metric that knows only right and
wrong, from grade `least` on. One label: same label is grade 1. Two levels: same label is grade 2 and relevant, same
parent label is grade 1 and not. Many labels: the grade is the number of labels shared, and one is enough.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from anchorage.errors import DataError
from anchorage.retrieval.neighbors import LeftOut

_SHARED_ROWS = 256  # queries whose shared labels are counted at once


class Relevance(Protocol):
    """What the metrics ask of labels; `queries` are positions, `rows` gallery rows."""

    top: int
    least: int

    def counts(self) -> np.ndarray:
        """`(Q, top)` int64: gallery items of grade 1, 2, ... `top`, without what is left out."""

    def grades(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """`(n,)` int64 grades of the named pairs."""

    def items(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The relevant pairs of some queries: place in `queries`, rising, and gallery row; without what is left out."""


class ClassRelevance:
    """Relevance by one label an image, and perhaps the label's parent.

    Args:
        query_labels: `(Q,)` int64 codes.
        gallery_labels: `(M,)` int64 codes.
        left_out: what each query must not meet.
        parents: `(C,)` int64 code of each label's parent, or None.
    """

    least: int

    def __init__(
        self,
        query_labels: np.ndarray,
        gallery_labels: np.ndarray,
        left_out: LeftOut,
        parents: np.ndarray | None = None,
    ):
        self.top = self.least = 1 if parents is None else 2
        self._labels, self._gallery, self._left_out, self._parents = query_labels, gallery_labels, left_out, parents
        self._order = np.argsort(gallery_labels, kind="stable")
        ordered = gallery_labels[self._order]
        self._starts, self._ends = (np.searchsorted(ordered, query_labels, side=side) for side in ("left", "right"))

    def counts(self) -> np.ndarray:
        same = self._met(self._labels, self._gallery)
        if self._parents is None:
            return same[:, None]
        family = self._met(self._parents[self._labels], self._parents[self._gallery])
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
        met = ~self._left_out.hides(queries[places], rows)
        return places[met], rows[met]

    def _met(self, labels: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        """Gallery items of each query's label, less those left out."""
        left, size = self._left_out, int(max(labels.max(initial=0), gallery.max(initial=0))) + 1
        found = np.bincount(gallery, minlength=size)[labels]
        alone = (left.own >= 0).astype(np.int64)
        if left.query_groups is None or left.gallery_groups is None:
            return found - alone
        known = left.gallery_groups >= 0
        pairs, counts = np.unique(left.gallery_groups[known] * size + gallery[known], return_counts=True)
        wanted = left.query_groups * size + labels
        at = np.minimum(np.searchsorted(pairs, wanted), max(0, len(pairs) - 1))
        together = np.where(pairs[at] == wanted, counts[at], 0) if len(pairs) else np.zeros_like(wanted)
        return found - np.where(left.query_groups >= 0, together, alone)


class SharedRelevance:
    """Relevance by the number of labels that two images share.

    Args:
        query_labels: `(Q, L)` sparse 0/1 matrix (SciPy `csr_array`).
        gallery_labels: `(M, L)` likewise.
        left_out: what each query must not meet.
    """

    least = 1

    def __init__(self, query_labels: Any, gallery_labels: Any, left_out: LeftOut):
        self._labels, self._gallery, self._left_out = query_labels, gallery_labels, left_out
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
        """Place, gallery row and number of shared labels of every pair that shares one and may meet."""
        shared = (self._labels[queries] @ self._gallery.T).tocsr()
        shared.sort_indices()
        places = np.repeat(np.arange(len(queries)), np.diff(shared.indptr))
        rows = shared.indices.astype(np.int64)
        met = ~self._left_out.hides(queries[places], rows)
        return places[met], rows[met], shared.data[met].astype(np.int64)


def encode_labels(labels: Any) -> tuple[np.ndarray | None, Any]:
    """Class codes `(M,)` for one label a row, or a sparse 0/1 matrix `(M, L)` for several; the other one is None.

    Args:
        labels: `(M,)` numbers or names; or, for several labels a row, a sequence of sets, lists or tuples, or an
            `(M, L)` matrix of 0 and 1.

    Raises:
        DataError: `E_LABELS` for a matrix that holds anything but 0 and 1.
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
    """`(C,)` parent code of each class code, from the parents of the rows.

    Raises:
        DataError: `E_LABELS` if the rows of one class name two parents, or the lengths differ.
    """
    if len(parents) != len(codes):
        raise DataError("E_LABELS", f"Expected a parent label for each of {len(codes)} rows. Received: {len(parents)}")
    found = np.unique(np.asarray(parents), return_inverse=True)[1].astype(np.int64)
    of_class = np.zeros(codes.max(initial=-1) + 1, np.int64)
    of_class[codes] = found
    if mixed := int((of_class[codes] != found).sum()):
        raise DataError(
            "E_LABELS", f"Expected one parent for all rows of a class. Received: another one in {mixed} rows"
        )
    return of_class


def encode_groups(groups: Sequence | np.ndarray) -> np.ndarray:
    """`(M,)` int64 codes of group names; "" is no group, and gives -1."""
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
