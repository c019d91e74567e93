"""Exact nearest neighbours by inner product, block by block, with ties told apart from rounding.

The engine is one NumPy matrix product per block of queries, followed by a two-step choice: the largest value of each
group of 32 gallery rows gives a bound, and only what reaches it is sorted. Against ScaNN's brute force this needs
neither TensorFlow nor native code that aborts on a NaN, and it sees the whole block, so that every row that ties with
the last neighbour is found.

A similarity is the float64 dot product of the two float32 rows, rounded to float32. Where the matrix product leaves two
neighbours closer than its own rounding error, both are computed again by that definition; equal rows are therefore
exactly equal, whatever the block size, the thread count or the machine.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from anchorage.errors import DataError, UsageError

_GROUP = 32  # gallery rows behind one bound: measured best of 32 and 64 for 60,502 rows
_BLOCK_ROWS = 1024  # the sort key has 10 bits for the query,
_FLAT_ITEMS = 4_000_000  # and 22 bits for a candidate: neighbours held at once, ties included
_BLOCK_BYTES = 256 << 20  # similarities held at once
_PAIRS = 16_384  # pairs computed again at once
_ROUNDING = 2e-7  # more than ten times the usual error of a float32 product of unit rows, per square root of D
_SMALL = 1_000_000  # numbers in a gallery too small to be worth threads
_SHOWN = 5  # ids named in an error


class LeftOut(NamedTuple):
    """What a query must not meet in the gallery.

    Args:
        own: `(Q,)` int64 gallery row of the query itself, -1 where it is not in the gallery.
        query_groups: `(Q,)` int64 codes, or None; a gallery row of the query's group is left out. -1: no group.
        gallery_groups: `(M,)` int64 codes of the gallery rows, or None.
    """

    own: np.ndarray
    query_groups: np.ndarray | None = None
    gallery_groups: np.ndarray | None = None

    def select(self, queries: np.ndarray) -> "LeftOut":
        """The same for some of the queries."""
        groups = None if self.query_groups is None else self.query_groups[queries]
        return LeftOut(self.own[queries], groups, self.gallery_groups)

    def counts(self) -> np.ndarray:
        """`(Q,)` gallery rows that each query does not meet."""
        alone = (self.own >= 0).astype(np.int64)
        if self.query_groups is None or self.gallery_groups is None:
            return alone
        known = self.gallery_groups[self.gallery_groups >= 0]
        sizes = np.bincount(known, minlength=max(1, int(self.query_groups.max(initial=0)) + 1))
        return np.where(self.query_groups >= 0, sizes[self.query_groups], alone)

    def hides(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Whether each pair of a query and a gallery row is left out."""
        hidden = self.own[queries] == rows
        if self.query_groups is not None and self.gallery_groups is not None:
            groups = self.query_groups[queries]
            hidden |= (groups >= 0) & (groups == self.gallery_groups[rows])
        return hidden


class Ranking(NamedTuple):
    """Neighbours of one block of queries, nearest first, ties in row order.

    Each query's list holds its `depth` nearest rows and every further row that ties with the last of them.

    Args:
        queries: `(B,)` int64 positions of the block's queries.
        depth: neighbours asked for.
        starts: `(B + 1,)` int64; the list of query `i` is `[starts[i] : starts[i + 1]]`.
        rows: `(n,)` int64 gallery rows of all lists, one after another.
        similarities: `(n,)` float32, never rising within a list.
    """

    queries: np.ndarray
    depth: int
    starts: np.ndarray
    rows: np.ndarray
    similarities: np.ndarray

    @property
    def places(self) -> np.ndarray:
        """`(n,)` place in the block of the query behind each entry."""
        return np.repeat(np.arange(len(self.queries)), np.diff(self.starts))

    def first(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and similarities of the first `k <= depth` neighbours, each `(B, k)`."""
        places = self.starts[:-1, None] + np.arange(k)
        return self.rows[places], self.similarities[places]


class Block(NamedTuple):
    """The products of some queries with the whole gallery.

    Args:
        queries: `(B,)` int64 positions of the queries.
        depth: neighbours that the deepest of them asks for.
        similarities: `(B, M)` float32, -inf where a row is left out; good until the next block is asked for.
        scratch: `(B, M)` bool, for who works on the block: new memory of this size would cost more than the work.
    """

    queries: np.ndarray
    depth: int
    similarities: np.ndarray
    scratch: np.ndarray


class Space:
    """Queries against a gallery, with what each query must not meet.

    Args:
        queries: `(Q, D)` vectors; of unit length where the product is to be a cosine.
        gallery: `(M, D)` vectors.
        left_out: None: nothing is left out.

    Raises:
        DataError: if the shapes do not fit together or a value is not finite.
    """

    def __init__(self, queries: np.ndarray, gallery: np.ndarray, left_out: LeftOut | None = None):
        self.gallery = _matrix("gallery", gallery)
        self.queries = self.gallery if queries is gallery else _matrix("queries", queries)
        if self.queries.shape[1] != self.gallery.shape[1]:
            raise DataError(
                "E_VECTOR_SHAPE",
                "Expected queries and gallery of one dimension. "
                f"Received: {self.queries.shape[1]} and {self.gallery.shape[1]} dimensions",
            )
        self.left_out = left_out or LeftOut(np.full(len(self.queries), -1, np.int64))
        self.available = len(self.gallery) - self.left_out.counts()
        self.tolerance = _tolerance(self.queries, self.gallery) if len(self.queries) and len(self.gallery) else 0.0

    def blocks(self, depths: np.ndarray, block_rows: int | None = None) -> Iterator[Block]:
        """The products in blocks of queries, in the order of rising depth.

        Args:
            depths: `(Q,)` neighbours that each query needs; a block ranks as deep as its deepest query.
            block_rows: queries per matrix product; None: as many as 256 MiB of similarities allow.

        Raises:
            UsageError: if a depth is below 1 or above what the gallery can give.
        """
        depths = np.asarray(depths, np.int64)
        _check_depths(depths, self.available)
        order, done = np.argsort(depths, kind="stable"), 0
        fitting = block_rows or max(1, _BLOCK_BYTES // max(1, 4 * len(self.gallery)))
        most = min(_BLOCK_ROWS, max(1, len(depths)), fitting)
        buffer, scratch = (np.empty((most, len(self.gallery)), kind) for kind in (np.float32, np.bool_))
        members, multiply = self._group_members(), _multiplier(self.gallery)
        while done < len(order):
            block = order[done : done + most]
            block = block[: max(1, _FLAT_ITEMS // int(depths[block[-1]]))]
            fits = depths[block] <= np.minimum.accumulate(self.available[block])  # no list longer than what can be met
            block = block[: len(block) if fits.all() else int(fits.argmin())]
            similarities = multiply(self.queries[block], buffer[: len(block)])
            own = self.left_out.own[block]
            similarities[np.flatnonzero(own >= 0), own[own >= 0]] = -np.inf
            for place, rows in enumerate(members(block)):
                similarities[place, rows] = -np.inf
            yield Block(block, int(depths[block[-1]]), similarities, scratch[: len(block)])
            done += len(block)

    def exact(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """`(n,)` similarities of the named pairs, summed in float64 in an order that depends on nothing else."""
        products = np.empty(len(rows), np.float32)
        for first in range(0, len(rows), _PAIRS):
            part = slice(first, first + _PAIRS)
            pairs = self.queries[queries[part]].astype(np.float64), self.gallery[rows[part]].astype(np.float64)
            products[part] = np.einsum("nd,nd->n", *pairs)
        return products

    def _group_members(self) -> Callable[[np.ndarray], Iterable[np.ndarray]]:
        """From a block of queries to the gallery rows of each one's group."""
        left = self.left_out
        if left.query_groups is None or left.gallery_groups is None:
            return lambda block: ()
        query_groups, order = left.query_groups, np.argsort(left.gallery_groups, kind="stable")
        ordered = left.gallery_groups[order]
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
    """The `k` gallery rows with the highest inner product to each query: exact, in bounded memory.

    Args:
        queries: `(Q, D)` vectors; of unit length where the product is to be a cosine.
        gallery: `(M, D)` vectors.
        k: neighbours per query, at least 1.
        own_rows: `(Q,)` gallery row of the query itself, left out of its answer, or -1; None: nothing is left out.
        block_rows: queries per matrix product; None: as many as 256 MiB of similarities allow.

    Returns:
        Rows `(Q, k)` int64 and similarities `(Q, k)` float32, nearest first; of equal similarities the lower row first.

    Raises:
        UsageError: if `k` is below 1 or above what the gallery can give.
        DataError: if the shapes do not fit together or a value is not finite.

    Example:
        >>> rows, similarities = nearest_neighbors([[1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]], k=2)
        >>> rows.tolist(), similarities.round(3).tolist()
        ([[1, 2]], [[1.0, 0.6000000238418579]])
    """
    left_out = None if own_rows is None else LeftOut(np.asarray(own_rows, np.int64))
    space = Space(queries, gallery, left_out)
    rows = np.empty((len(queries), k if k > 0 else 0), np.int64)
    similarities = np.empty(rows.shape, np.float32)
    for block in space.blocks(np.full(len(queries), k), block_rows):
        for ranking in rank_block(space, block):
            rows[ranking.queries], similarities[ranking.queries] = ranking.first(k)
    return rows, similarities


def rank_block(space: Space, block: Block) -> Iterator[Ranking]:
    """Rank the gallery for the queries of one block; more than one part where ties make the lists very long."""
    rows, depth = len(space.gallery), block.depth
    size = min(_GROUP, max(1, rows // (4 * depth)))
    groups = rows // size
    # Group g holds the gallery rows g, g + groups, g + 2 groups, ...: neighbours in the gallery's order, often of one
    # class, fall into different groups. The depth-th largest group maximum is a lower bound of the depth-th neighbour,
    # and stays one where the last few rows are in no group.
    grouped = block.similarities[:, : size * groups].reshape(len(block.queries), size, groups)
    maxima = grouped.max(axis=1) if size > 1 else grouped[:, 0]
    bounds = np.partition(maxima, groups - depth, axis=1)[:, groups - depth] - space.tolerance
    bounds = np.maximum(bounds, np.finfo(np.float32).min)  # what is left out is -inf, and never passes
    passing = np.greater_equal(block.similarities, bounds[:, None], out=block.scratch)
    parts = [slice(0, len(bounds))]
    if np.count_nonzero(passing) > _FLAT_ITEMS:
        step = max(1, _FLAT_ITEMS // int(passing.sum(axis=1).max()))
        parts = [slice(first, first + step) for first in range(0, len(bounds), step)]
    for part in parts:
        places, columns = np.divmod(np.flatnonzero(passing[part]), rows)  # four times as fast as `np.nonzero`
        yield _ranking(space, block.queries[part], depth, places, columns, block.similarities[part][places, columns])


def check_vectors(vectors: np.ndarray, ids: Sequence | np.ndarray | None = None, *, allow_zero: bool = False) -> None:
    """Refuse vectors that would poison a ranking or abort native code.

    Args:
        vectors: `(M, D)` floats.
        ids: `(M,)` names to show in the error; None: row numbers.
        allow_zero: whether a row of zeros may pass; it has no direction, so no index should hold one.

    Raises:
        DataError: `E_VECTOR_NOT_FINITE` or `E_VECTOR_ZERO`, with the number of bad rows and the first ids.
    """
    # A row's sum of squares is finite and positive exactly when the row is good; float64 keeps it from overflowing.
    squares = np.einsum("md,md->m", vectors, vectors, dtype=np.float64)
    faults = [("E_VECTOR_NOT_FINITE", ~np.isfinite(squares), "finite values", "NaN or infinity")]
    if not allow_zero:
        faults.append(("E_VECTOR_ZERO", squares == 0, "vectors with a direction", "only zeros"))
    for code, bad, wanted, found in faults:
        rows = np.flatnonzero(bad)
        if len(rows):
            names = ", ".join(str(row if ids is None else ids[row]) for row in rows[:_SHOWN])
            more = ", ..." if len(rows) > _SHOWN else ""
            raise DataError(
                code,
                f"Expected {wanted} in every embedding. Received {found} in {len(rows)} of {len(vectors)} rows: "
                f"{names}{more}. Look at these images, and at the training loss, before going on",
            )


def _matrix(name: str, vectors: np.ndarray) -> np.ndarray:
    """The vectors as a contiguous, finite float32 matrix."""
    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    if matrix.ndim != 2:
        raise DataError("E_VECTOR_SHAPE", f"Expected `{name}` of shape (rows, dimension). Received: {matrix.shape}")
    check_vectors(matrix, allow_zero=True)
    return matrix


def _check_depths(depths: np.ndarray, available: np.ndarray) -> None:
    lacking = np.flatnonzero((depths > available) | (depths < 1))
    if len(lacking):
        wanted, found = int(depths[lacking[0]]), int(available[lacking[0]])
        raise UsageError(
            "E_TOO_FEW_NEIGHBORS",
            f"Expected a number of neighbours from 1 to {found}, the gallery rows a query can be compared with. "
            f"Received: {wanted}. Ask for fewer neighbours or enlarge the gallery",
        )


def _multiplier(gallery: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The products of some queries with the gallery, written into a buffer; every processor takes a share of the rows.

    NumPy's own threads would wait for the next product in a busy loop: a third of all CPU time at 60,502 rows.
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
    """Difference below which two float32 products may stand in the wrong order."""
    longest = [float(np.sqrt(np.einsum("nd,nd->n", m, m).max())) for m in (queries, gallery)]
    return _ROUNDING * float(np.sqrt(gallery.shape[1])) * longest[0] * longest[1]


def _ranking(
    space: Space, block: np.ndarray, depth: int, places: np.ndarray, rows: np.ndarray, similarities: np.ndarray
) -> Ranking:
    """Sort the candidates, given in the order of place in the block and row, and cut each list after its last tie."""
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
    """Order by place, falling similarity and position, through one sort of whole numbers: six times a lexsort's speed.

    Key, from its highest bit: 10 bits of place, 32 bits that fall as the similarity rises, 22 bits of position.
    """
    if len(places) >= 1 << 22 or not len(places):  # one query's ties with all of a very large gallery
        return np.lexsort((-similarities, places))
    bits = (similarities + np.float32(0)).view(np.uint32)  # -0 becomes 0
    rising = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    keys = (
        (places.astype(np.uint64) << 54) | ((~rising).astype(np.uint64) << 22) | np.arange(len(places), dtype=np.uint64)
    )
    keys.sort()
    return (keys & np.uint64((1 << 22) - 1)).astype(np.int64)
