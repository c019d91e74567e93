"""Vectors of the rows that repeated filters keep, in one piece: collecting them takes longer than comparing them."""

import sys
from collections.abc import Callable
from itertools import chain
from threading import Lock
from typing import NamedTuple

import numpy as np

from anchorage.retrieval.filters import Filter

_MOST_BYTES = 128 << 20  # 25 filters that keep 10,000 rows of 128 numbers
_FEWEST_ROWS = 1_000  # of a filter worth a copy
_PIECE = 512  # rows copied at once
_SEEN = 1_024  # filters used once that are recognized


class Matches(NamedTuple):
    """Rows that a filter keeps.

    Args:
        rows: `(m,)` integers, ascending.
        vectors: `(m, D)` float32 in column order, which is faster for one query; None if there is no copy.
    """

    rows: np.ndarray
    vectors: np.ndarray | None


class GatheredVectors:
    """Copies of the vectors of the filters used last.

    A filter's vectors are copied at its second use, so that filters used once cost nothing. The least recently used
    ones are dropped first. Several threads may call `find`.

    Args:
        vectors: `(M, D)` float32 of the table, in memory or mapped; they never change.
        most_bytes: bound of all copies, with the filters and rows that they belong to. A thread that makes a copy has
            this one beside them.
    """

    def __init__(self, vectors: np.ndarray, most_bytes: int = _MOST_BYTES):
        self._vectors, self._most_bytes = vectors, most_bytes
        self._lock = Lock()
        self._seen: dict[int, None] = {}  # hashes of filters, oldest first
        self._kept: dict[Filter, tuple[Matches, int]] = {}  # with its bytes, least recently used first
        self._bytes = 0

    def find(self, where: Filter, find_rows: Callable[[], np.ndarray]) -> Matches:
        """Return the rows that a filter keeps, with their vectors where there is a copy.

        Args:
            where: the filter.
            find_rows: returns the rows that it keeps, the same at each call.
        """
        with self._lock:
            if (kept := self._kept.pop(where, None)) is not None:
                self._kept[where] = kept  # now the last to be dropped
                return kept[0]
            repeated = self._is_repeated(hash(where))
        rows = find_rows()
        size = rows.nbytes + len(rows) * self._vectors[:1].nbytes + _text_bytes(where)
        if not repeated or len(rows) < _FEWEST_ROWS or size > self._most_bytes:
            return Matches(rows, None)
        matches = Matches(rows, self._gather(rows))
        with self._lock:
            if where not in self._kept:  # else another thread was faster
                self._kept[where] = matches, size
                self._bytes += size
            while self._bytes > self._most_bytes:
                _, dropped = self._kept.pop(next(iter(self._kept)))
                self._bytes -= dropped
        return matches

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        source = np.asarray(self._vectors)  # slices of a mapped array are slow
        vectors = np.empty((len(rows), source.shape[1]), np.float32, order="F")
        for start in range(0, len(rows), _PIECE):
            vectors[start : start + _PIECE] = source.take(rows[start : start + _PIECE], axis=0)
        return vectors

    def _is_repeated(self, key: int) -> bool:
        """Whether this is every second use of a filter among those seen last."""
        if key in self._seen:
            del self._seen[key]
            return True
        self._seen[key] = None
        if len(self._seen) > _SEEN:
            del self._seen[next(iter(self._seen))]
        return False


def _text_bytes(where: Filter) -> int:
    texts = chain(where.ids or (), where.labels or (), where.attributes, *where.attributes.values())
    return sum(map(sys.getsizeof, texts))
