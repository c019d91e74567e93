"""Exact nearest neighbors by inner product, in blocks of queries, with exact ties.

Each block is one NumPy matrix product and a selection in two steps: the maximum of each group of 32 gallery rows gives
a bound, and only rows that reach the bound are sorted. Unlike ScaNN's brute force, this needs neither TensorFlow nor
native code that aborts on NaN, and it finds every row that ties with the last neighbor.

The similarity of two rows is defined as the float64 dot product of the float32 rows, rounded to float32. If the matrix
product of two neighbors differs by less than its rounding error, both similarities are recomputed by this definition.
Equal rows therefore tie exactly, for every block size, number of threads and machine.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from anchorage.errors import DataError, UsageError
from anchorage.progress import advance, task

_GROUP = 32  # gallery rows per bound: faster than 64 for 60,502 rows
_BLOCK_ROWS = 1024  # the sort key has 10 bits for the query
_FLAT_ITEMS = 4_000_000  # and 22 bits for the candidate: neighbors in memory at once, ties included
_BLOCK_BYTES = 256 << 20  # similarities in memory at once
_PAIRS = 16_384  # similarities recomputed at once
_ROUNDING = 2e-7  # over ten times the usual error of a float32 product of unit rows, per square root of D
_SMALL = 1_000_000  # elements of a gallery; below, threads do not pay off
_SHOWN = 5  # ids in an error message
_TASK = "searching neighbors"


class Exclusions(NamedTuple):
    """Gallery rows that are excluded from the results of a query: the query itself and its group.

    Args:
        own: `(Q,)` int64 gallery row of the query itself, -1 if it is not in the gallery.
        query_groups: `(Q,)` int64 codes, or None; gallery rows of the query's group are excluded. -1: no group.
        gallery_groups: `(M,)` int64 codes of the gallery rows, or None.
    """

    own: np.ndarray
    query_groups: np.ndarray | None = None
    gallery_groups: np.ndarray | None = None

    def select(self, queries: np.ndarray) -> "Exclusions":
        """Select some of the queries."""
        groups = None if self.query_groups is None else self.query_groups[queries]
        return Exclusions(self.own[queries], groups, self.gallery_groups)

    def counts(self) -> np.ndarray:
        """Count the excluded gallery rows of each query: `(Q,)`."""
        own_only = (self.own >= 0).astype(np.int64)
        if self.query_groups is None or self.gallery_groups is None:
            return own_only
        grouped = self.gallery_groups[self.gallery_groups >= 0]
        sizes = np.bincount(grouped, minlength=max(1, int(self.query_groups.max(initial=0)) + 1))
        return np.where(self.query_groups >= 0, sizes[self.query_groups], own_only)

    def excludes(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return whether each pair of a query and a gallery row is excluded."""
        excluded = self.own[queries] == rows
        if self.query_groups is not None and self.gallery_groups is not None:
            groups = self.query_groups[queries]
            excluded |= (groups >= 0) & (groups == self.gallery_groups[rows])
        return excluded


class Ranking(NamedTuple):
    """Neighbors of one block of queries, nearest first, ties in row order.

    The list of a query has its `depth` nearest rows, and all other rows that tie with the last of them.

    Args:
        queries: `(B,)` int64 numbers of the block's queries.
        depth: number of neighbors.
        starts: `(B + 1,)` int64; the list of query `i` is `[starts[i] : starts[i + 1]]`.
        rows: `(n,)` int64 gallery rows of all lists, concatenated.
        similarities: `(n,)` float32, in descending order within a list.
    """

    queries: np.ndarray
    depth: int
    starts: np.ndarray
    rows: np.ndarray
    similarities: np.ndarray

    @property
    def places(self) -> np.ndarray:
        """`(n,)` position within the block of each entry's query."""
        return np.repeat(np.arange(len(self.queries)), np.diff(self.starts))

    def first(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and similarities of the first `k <= depth` neighbors, each `(B, k)`."""
        index = self.starts[:-1, None] + np.arange(k)
        return self.rows[index], self.similarities[index]


class Block(NamedTuple):
    """Similarities of a block of queries to the whole gallery.

    Args:
        queries: `(B,)` int64 numbers of the queries.
        depth: largest number of neighbors that a query of the block needs.
        similarities: `(B, M)` float32, -inf for excluded rows; overwritten by the next block.
        scratch: `(B, M)` bool buffer to work in: allocating one of this size takes longer than the work.
    """

    queries: np.ndarray
    depth: int
    similarities: np.ndarray
    scratch: np.ndarray


class Space:
    """Queries and a gallery, with the gallery rows that are excluded for each query.

    Args:
        queries: `(Q, D)` vectors; of unit length for the cosine similarity.
        gallery: `(M, D)` vectors.
        exclusions: gallery rows to exclude; None for none.

    Raises:
        DataError: if the shapes do not match or a value is not finite.
    """

    def __init__(self, queries: np.ndarray, gallery: np.ndarray, exclusions: Exclusions | None = None):
        self.gallery = _matrix("gallery", gallery)
        self.queries = self.gallery if queries is gallery else _matrix("queries", queries)
        if self.queries.shape[1] != self.gallery.shape[1]:
            raise DataError(
                "E_VECTOR_SHAPE",
                "Expected queries and gallery of one dimension. "
                f"Received: {self.queries.shape[1]} and {self.gallery.shape[1]} dimensions",
            )
        self.exclusions = exclusions or Exclusions(np.full(len(self.queries), -1, np.int64))
        self.available = len(self.gallery) - self.exclusions.counts()
        self.tolerance = _tolerance(self.queries, self.gallery) if len(self.queries) and len(self.gallery) else 0.0

    def blocks(self, depths: np.ndarray, block_rows: int | None = None) -> Iterator[Block]:
        """Yield the similarities in blocks of queries, in the order of increasing depth.

        Args:
            depths: `(Q,)` number of neighbors that each query needs; the depth of a block is that of its deepest query.
            block_rows: queries per matrix product; None for as many as fit into 256 MiB of similarities.

        Raises:
            UsageError: if a depth is less than 1 or greater than the number of gallery rows not excluded.
        """
        depths = np.asarray(depths, np.int64)
        _check_depths(depths, self.available)
        order, done = np.argsort(depths, kind="stable"), 0
        in_memory = block_rows or max(1, _BLOCK_BYTES // max(1, 4 * len(self.gallery)))
        most = min(_BLOCK_ROWS, max(1, len(depths)), in_memory)
        buffer, scratch = (np.empty((most, len(self.gallery)), kind) for kind in (np.float32, np.bool_))
        members, multiply = self._group_members(), _multiplier(self.gallery)
        with task(_TASK, len(order)):
            while done < len(order):
                block = order[done : done + most]
                block = block[: max(1, _FLAT_ITEMS // int(depths[block[-1]]))]
                fits = depths[block] <= np.minimum.accumulate(self.available[block])  # no list longer than the gallery
                block = block[: len(block) if fits.all() else int(fits.argmin())]
                similarities = multiply(self.queries[block], buffer[: len(block)])
                own = self.exclusions.own[block]
                similarities[np.flatnonzero(own >= 0), own[own >= 0]] = -np.inf
                for place, rows in enumerate(members(block)):
                    similarities[place, rows] = -np.inf
                yield Block(block, int(depths[block[-1]]), similarities, scratch[: len(block)])
                done += len(block)
                advance(_TASK, len(block))

    def exact(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Compute the similarities `(n,)` of pairs in float64; the result does not depend on the other pairs."""
        products = np.empty(len(rows), np.float32)
        for first in range(0, len(rows), _PAIRS):
            part = slice(first, first + _PAIRS)
            pairs = self.queries[queries[part]].astype(np.float64), self.gallery[rows[part]].astype(np.float64)
            products[part] = np.einsum("nd,nd->n", *pairs)
        return products

    def _group_members(self) -> Callable[[np.ndarray], Iterable[np.ndarray]]:
        """Return a function from a block of queries to the gallery rows of each query's group."""
        excluded = self.exclusions
        if excluded.query_groups is None or excluded.gallery_groups is None:
            return lambda block: ()
        query_groups, order = excluded.query_groups, np.argsort(excluded.gallery_groups, kind="stable")
        ordered = excluded.gallery_groups[order]
        starts, ends = (np.searchsorted(ordered, query_groups, side=side) for side in ("left", "right"))
        ends = np.where(query_groups >= 0, ends, starts)
        return lambda block: (order[starts[query] : ends[query]] for query in block)


def nearest_neighbors(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    own_rows: np.ndarray | None = None,
    block_rows: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the `k` gallery rows with the highest inner product to each query: exact, in bounded memory.

    Args:
        queries: `(Q, D)` vectors; of unit length for the cosine similarity.
        gallery: `(M, D)` vectors.
        k: neighbors per query, at least 1.
        own_rows: `(Q,)` gallery row of the query itself, which is excluded from its results, or -1; None excludes
            nothing.
        block_rows: queries per matrix product; None for as many as fit into 256 MiB of similarities.

    Returns:
        Rows `(Q, k)` int64 and similarities `(Q, k)` float32, nearest first; ties in row order.

    Raises:
        UsageError: if `k` is less than 1 or greater than the number of gallery rows not excluded.
        DataError: if the shapes do not match or a value is not finite.

    Example:
        >>> rows, similarities = nearest_neighbors([[1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]], k=2)
        >>> rows.tolist(), similarities.round(3).tolist()
        ([[1, 2]], [[1.0, 0.6000000238418579]])
    """
    exclusions = None if own_rows is None else Exclusions(np.asarray(own_rows, np.int64))
    space = Space(queries, gallery, exclusions)
    rows = np.empty((len(queries), k if k > 0 else 0), np.int64)
    similarities = np.empty(rows.shape, np.float32)
    for block in space.blocks(np.full(len(queries), k), block_rows):
        for ranking in rank_block(space, block):
            rows[ranking.queries], similarities[ranking.queries] = ranking.first(k)
    return rows, similarities


def rank_block(space: Space, block: Block) -> Iterator[Ranking]:
    """Rank the gallery for the queries of a block; yields several parts if ties make the lists very long."""
    rows, depth = len(space.gallery), block.depth
    size = min(_GROUP, max(1, rows // (4 * depth)))
    groups = rows // size
    # Group g has the gallery rows g, g + groups, g + 2 groups, ..., so that adjacent rows, often of one class, are in
    # different groups. The depth-th largest group maximum is a lower bound of the similarity of the depth-th neighbor,
    # even though the last few rows are in no group.
    grouped = block.similarities[:, : size * groups].reshape(len(block.queries), size, groups)
    maxima = grouped.max(axis=1) if size > 1 else grouped[:, 0]
    bounds = np.partition(maxima, groups - depth, axis=1)[:, groups - depth] - space.tolerance
    bounds = np.maximum(bounds, np.finfo(np.float32).min)  # excluded rows have -inf and never pass
    passing = np.greater_equal(block.similarities, bounds[:, None], out=block.scratch)
    parts = [slice(0, len(bounds))]
    if np.count_nonzero(passing) > _FLAT_ITEMS:
        step = max(1, _FLAT_ITEMS // int(passing.sum(axis=1).max()))
        parts = [slice(first, first + step) for first in range(0, len(bounds), step)]
    for part in parts:
        places, columns = np.divmod(np.flatnonzero(passing[part]), rows)  # four times as fast as `np.nonzero`
        yield _ranking(space, block.queries[part], depth, places, columns, block.similarities[part][places, columns])


def check_vectors(vectors: np.ndarray, ids: Sequence | np.ndarray | None = None, *, allow_zero: bool = False) -> None:
    """Reject vectors that invalidate a ranking or abort native code.

    Args:
        vectors: `(M, D)` floats.
        ids: `(M,)` names for the error message; None for row numbers.
        allow_zero: whether rows of zeros are accepted; they have no direction, so an index should not contain any.

    Raises:
        DataError: `E_VECTOR_NOT_FINITE` or `E_VECTOR_ZERO`, with the number of bad rows and the first ids.
    """
    # The sum of squares of a row is finite and positive if and only if the row is valid; in float64 it cannot overflow.
    squares = np.einsum("md,md->m", vectors, vectors, dtype=np.float64)
    faults = [("E_VECTOR_NOT_FINITE", ~np.isfinite(squares), "finite values", "NaN or infinity")]
    if not allow_zero:
        faults.append(("E_VECTOR_ZERO", squares == 0, "vectors with a direction", "only zeros"))
    for code, bad, expected, received in faults:
        rows = np.flatnonzero(bad)
        if len(rows):
            names = ", ".join(str(row if ids is None else ids[row]) for row in rows[:_SHOWN])
            more = ", ..." if len(rows) > _SHOWN else ""
            raise DataError(
                code,
                f"Expected {expected} in every embedding. Received {received} in {len(rows)} of {len(vectors)} rows: "
                f"{names}{more}. Check these images and the training loss",
            )


def _matrix(name: str, vectors: np.ndarray) -> np.ndarray:
    """Convert vectors to a contiguous float32 matrix, and check its shape and values."""
    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    if matrix.ndim != 2:
        raise DataError("E_VECTOR_SHAPE", f"Expected `{name}` of shape (rows, dimension). Received: {matrix.shape}")
    check_vectors(matrix, allow_zero=True)
    return matrix


def _check_depths(depths: np.ndarray, available: np.ndarray) -> None:
    invalid = np.flatnonzero((depths > available) | (depths < 1))
    if len(invalid):
        raise UsageError(
            "E_TOO_FEW_NEIGHBORS",
            f"Expected from 1 to {available[invalid[0]]} neighbors, the gallery rows a query can be compared with. "
            f"Received: {depths[invalid[0]]}. Request fewer neighbors or enlarge the gallery",
        )


def _multiplier(gallery: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function that multiplies queries with the gallery into a buffer, in parallel over the queries.

    The threads of NumPy's BLAS would wait for the next product in a busy loop: a third of all CPU time for 60,502 rows.
    """
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if workers == 1 or gallery.size < _SMALL or find_spec("threadpoolctl") is None:
        return lambda queries, out: np.matmul(queries, gallery.T, out=out)
    from threadpoolctl import ThreadpoolController

    blas, pool = ThreadpoolController(), ThreadPoolExecutor(workers, "products")

    def multiply(queries: np.ndarray, out: np.ndarray) -> np.ndarray:
        edges = np.linspace(0, len(queries), workers + 1).astype(int)
        with blas.limit(limits=1, user_api="blas"):
            parts = (pool.submit(np.matmul, queries[a:b], gallery.T, out=out[a:b]) for a, b in pairwise(edges) if a < b)
            for part in list(parts):
                part.result()
        return out

    return multiply


def _tolerance(queries: np.ndarray, gallery: np.ndarray) -> float:
    """Return the difference below which two float32 products can be in the wrong order."""
    longest = [float(np.sqrt(np.einsum("nd,nd->n", m, m).max())) for m in (queries, gallery)]
    return _ROUNDING * float(np.sqrt(gallery.shape[1])) * longest[0] * longest[1]


def _ranking(
    space: Space, block: np.ndarray, depth: int, places: np.ndarray, rows: np.ndarray, similarities: np.ndarray
) -> Ranking:
    """Sort the candidates, given in the order of query and row, and cut each list after its last tie."""
    order = _sort_order(places, similarities)
    places, rows, similarities = places[order], rows[order], similarities[order]

    close = (places[1:] == places[:-1]) & (similarities[:-1] - similarities[1:] <= space.tolerance)
    doubtful = np.flatnonzero(np.append(close, False) | np.insert(close, 0, False))
    if len(doubtful):
        run = np.cumsum(~np.insert(close, 0, False))[doubtful]
        exact = space.exact(block[places[doubtful]], rows[doubtful])
        order = np.lexsort((rows[doubtful], -exact, run))
        rows[doubtful], similarities[doubtful] = rows[doubtful][order], exact[order]

    starts = np.searchsorted(places, np.arange(len(block) + 1))
    last = similarities[starts[:-1] + depth - 1]
    kept = (np.arange(len(places)) - starts[places] < depth) | (similarities == last[places])
    starts = np.insert(np.cumsum(np.bincount(places[kept], minlength=len(block))), 0, 0)
    return Ranking(block, depth, starts, rows[kept], similarities[kept])


def _sort_order(places: np.ndarray, similarities: np.ndarray) -> np.ndarray:
    """Return the order by query, descending similarity and position, six times as fast as lexsort, by one integer sort.

    The key has, from its highest bit, 10 bits of the query's place, 32 bits that decrease with increasing similarity,
    and 22 bits of position.
    """
    if len(places) >= 1 << 22 or not len(places):  # one query that ties with all of a very large gallery
        return np.lexsort((-similarities, places))
    bits = (similarities + np.float32(0)).view(np.uint32)  # -0 becomes 0
    rising = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    keys = (
        (places.astype(np.uint64) << 54) | ((~rising).astype(np.uint64) << 22) | np.arange(len(places), dtype=np.uint64)
    )
    keys.sort()
    return (keys & np.uint64((1 << 22) - 1)).astype(np.int64)
