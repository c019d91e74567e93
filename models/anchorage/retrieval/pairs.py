"""Similarities of same-class and other pairs, and the rank of the first right answer, in one block-wise pass."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from anchorage.retrieval.neighbors import LeftOut
from anchorage.retrieval.relevance import ClassRelevance, encode_groups

BINS = 20_000  # over [-1, 1]: steps of 0.0001
EDGES = np.linspace(-1.0, 1.0, BINS + 1)


@dataclass(frozen=True)
class PairStatistics:
    """What a set of queries sees in its gallery; the query itself never counts.

    Attributes:
        query_rows: `(Q,)` rows of the table that were asked.
        positive: `(BINS,)` counts of same-class pairs by similarity.
        negative: `(BINS,)` counts of other pairs by similarity.
        hardest_negative: `(Q,)` similarity of the nearest item of another
            class; -inf where there is none.
        first_hit: `(Q,)` rank, from 1, of the nearest same-class item.
        all_queries: queries there were before sampling.
    """

    query_rows: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    hardest_negative: np.ndarray
    first_hit: np.ndarray
    all_queries: int


def pair_statistics(
    vectors: np.ndarray,
    labels: np.ndarray,
    roles: np.ndarray,
    *,
    max_queries: int = 10_000,
    seed: int = 0,
    block_bytes: int = 16 << 20,
    groups: np.ndarray | None = None,
) -> PairStatistics:
    """Compares every query with every gallery item.

    Equal similarities are ranked by row, lower first. Queries without another
    item of their class in the gallery are left out.

    Args:
        vectors: `(M, D)` float32, rows of unit length.
        labels: `(M,)` class of each row, of any comparable type.
        roles: `(M,)` "query", "gallery" or "both".
        max_queries: above this number a random sample is taken.
        seed: draws the sample.
        block_bytes: memory for one block of similarities; about ten times that is
            used in all.
        groups: `(M,)` names; pairs within one group do not count, "" being no
            group.
    """
    codes = np.unique(labels, return_inverse=True)[1]
    found_in = np.flatnonzero(roles != "query")
    hidden = _left_out(np.arange(len(codes)), found_in, groups)
    query_rows, all_queries = _choose_queries(codes, roles, found_in, hidden, max_queries, seed)
    positive, negative = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    parts: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0, np.float32), np.empty(0, np.int64))]
    for _, similarities, same, other in _pair_blocks(vectors, codes, found_in, query_rows, hidden, block_bytes):
        positive += _count(similarities[same])
        negative += _count(similarities[other])
        parts.append(_nearest(similarities, same, other))
    hardest, first_hit = (np.concatenate(part) for part in zip(*parts, strict=True))
    return PairStatistics(query_rows, positive, negative, hardest, first_hit, all_queries)


class Accepted(NamedTuple):
    """Pairs at or above some thresholds, query by query.

    Args:
        positive: `(Q, T)` same-class pairs that reach each threshold.
        negative: `(Q, T)` other pairs that reach it.
        positives: `(Q,)` all same-class pairs.
        negatives: `(Q,)` all other pairs.
    """

    positive: np.ndarray
    negative: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray


def count_accepted(
    vectors: np.ndarray,
    labels: np.ndarray,
    roles: np.ndarray,
    query_rows: np.ndarray,
    edges: np.ndarray,
    *,
    block_bytes: int = 16 << 20,
    groups: np.ndarray | None = None,
) -> Accepted:
    """Counts, for each query, the pairs in the bins from some edges on: what each threshold accepts.

    Args:
        vectors: `(M, D)` float32, rows of unit length.
        labels: `(M,)` class of each row.
        roles: `(M,)` "query", "gallery" or "both".
        query_rows: `(Q,)` rows that ask, as `pair_statistics` chose them.
        edges: `(T,)` numbers of edges of `EDGES`.
        block_bytes: memory for one block of similarities.
        groups: as for `pair_statistics`.
    """
    codes, parts = np.unique(labels, return_inverse=True)[1], []
    found_in = np.flatnonzero(roles != "query")
    hidden = _left_out(np.arange(len(codes)), found_in, groups)
    for _, similarities, same, other in _pair_blocks(vectors, codes, found_in, query_rows, hidden, block_bytes):
        bins = _bins(similarities)
        reached = [bins >= edge for edge in edges]
        near, far = (np.stack([(kind & hit).sum(axis=1) for hit in reached], axis=1) for kind in (same, other))
        parts.append((near, far, same.sum(axis=1), other.sum(axis=1)))
    return Accepted(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _left_out(rows: np.ndarray, found_in: np.ndarray, groups: np.ndarray | None) -> LeftOut:
    """What each row of the table must not meet in the gallery."""
    own = np.where(np.isin(rows, found_in), np.searchsorted(found_in, rows), -1)
    if groups is None:
        return LeftOut(own)
    codes = encode_groups(groups)
    return LeftOut(own, codes[rows], codes[found_in])


def _pair_blocks(
    vectors: np.ndarray,
    codes: np.ndarray,
    gallery_rows: np.ndarray,
    query_rows: np.ndarray,
    hidden: LeftOut,
    block_bytes: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Rows that ask, their similarities to the gallery, and masks of same-class and of other pairs."""
    gallery, gallery_codes = vectors[gallery_rows], codes[gallery_rows]
    step = max(1, block_bytes // max(1, 4 * len(gallery)))
    for start in range(0, len(query_rows), step):
        rows = query_rows[start : start + step]
        left_out = hidden.hides(rows[:, None], np.arange(len(gallery_rows)))
        alike = codes[rows][:, None] == gallery_codes
        yield rows, vectors[rows] @ gallery.T, alike & ~left_out, ~(alike | left_out)


def _choose_queries(
    codes: np.ndarray, roles: np.ndarray, found_in: np.ndarray, hidden: LeftOut, most: int, seed: int
) -> tuple[np.ndarray, int]:
    relevant = ClassRelevance(codes, codes[found_in], hidden).counts()[:, 0]
    rows = np.flatnonzero((roles != "gallery") & (relevant > 0))
    if len(rows) <= most:
        return rows, len(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False)), len(rows)


def _count(similarities: np.ndarray) -> np.ndarray:
    return np.bincount(_bins(similarities), minlength=BINS)


def _bins(similarities: np.ndarray) -> np.ndarray:
    return np.clip(((similarities + 1.0) * (BINS / 2)).astype(np.int32), 0, BINS - 1)


def _nearest(similarities: np.ndarray, same: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Similarity of the nearest negative and rank of the nearest positive, per query of a block."""
    positives = np.where(same, similarities, -np.inf)
    best = positives.max(axis=1)
    negatives = np.where(other, similarities, -np.inf)
    tied_before = (negatives == best[:, None]) & (np.arange(same.shape[1]) < positives.argmax(axis=1)[:, None])
    first_hit = 1 + (negatives > best[:, None]).sum(axis=1) + tied_before.sum(axis=1)
    return negatives.max(axis=1), first_hit
