"""Histograms of the similarities of same-class and other pairs, and the rank of the first match, in one pass."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from anchorage.retrieval.neighbors import Exclusions
from anchorage.retrieval.relevance import ClassRelevance, encode_groups

BINS = 20_000  # over [-1, 1]: steps of 0.0001
EDGES = np.linspace(-1.0, 1.0, BINS + 1)


@dataclass(frozen=True)
class PairStatistics:
    """Statistics of the pairs of queries and gallery items; a query and itself are no pair.

    Attributes:
        query_rows: `(Q,)` table rows of the queries.
        positive: `(BINS,)` histogram of the similarities of same-class pairs.
        negative: `(BINS,)` histogram of the similarities of other pairs.
        hardest_negative: `(Q,)` similarity of the nearest item of another
            class; -inf if there is none.
        first_hit: `(Q,)` rank, from 1, of the nearest same-class item.
        all_queries: number of queries before sampling.
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
    """Compare every query with every gallery item.

    Ties are ranked in row order. Queries without another item of their class
    in the gallery are skipped.

    Args:
        vectors: `(M, D)` float32, rows of unit length.
        labels: `(M,)` class of each row, of any comparable type.
        roles: `(M,)` "query", "gallery" or "both".
        max_queries: largest number of queries; more are sampled at random.
        seed: seed of the sample.
        block_bytes: memory for one block of similarities; in total about ten
            times as much is used.
        groups: `(M,)` names; pairs within a group are excluded. "" is no group.
    """
    codes = np.unique(labels, return_inverse=True)[1]
    gallery_rows = np.flatnonzero(roles != "query")
    exclusions = _exclusions(np.arange(len(codes)), gallery_rows, groups)
    query_rows, all_queries = _choose_queries(codes, roles, gallery_rows, exclusions, max_queries, seed)
    positive, negative = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    parts: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0, np.float32), np.empty(0, np.int64))]
    for _, similarities, same, other in _pair_blocks(vectors, codes, gallery_rows, query_rows, exclusions, block_bytes):
        positive += _count(similarities[same])
        negative += _count(similarities[other])
        parts.append(_nearest(similarities, same, other))
    hardest, first_hit = (np.concatenate(part) for part in zip(*parts, strict=True))
    return PairStatistics(query_rows, positive, negative, hardest, first_hit, all_queries)


class Accepted(NamedTuple):
    """Number of pairs of each query at or above several thresholds.

    Args:
        positive: `(Q, T)` same-class pairs at or above each threshold.
        negative: `(Q, T)` other pairs at or above each threshold.
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
    """Count, for each query, the pairs that each threshold accepts.

    Args:
        vectors: `(M, D)` float32, rows of unit length.
        labels: `(M,)` class of each row.
        roles: `(M,)` "query", "gallery" or "both".
        query_rows: `(Q,)` rows of the queries, from `pair_statistics`.
        edges: `(T,)` thresholds, as indices into `EDGES`.
        block_bytes: memory for one block of similarities.
        groups: as for `pair_statistics`.
    """
    codes, parts = np.unique(labels, return_inverse=True)[1], []
    gallery_rows = np.flatnonzero(roles != "query")
    exclusions = _exclusions(np.arange(len(codes)), gallery_rows, groups)
    for _, similarities, same, other in _pair_blocks(vectors, codes, gallery_rows, query_rows, exclusions, block_bytes):
        bins = _bins(similarities)
        accepted = [bins >= edge for edge in edges]
        positive, negative = (
            np.stack([(kind & above).sum(axis=1) for above in accepted], axis=1) for kind in (same, other)
        )
        parts.append((positive, negative, same.sum(axis=1), other.sum(axis=1)))
    return Accepted(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _exclusions(rows: np.ndarray, gallery_rows: np.ndarray, groups: np.ndarray | None) -> Exclusions:
    """Return the gallery rows that are excluded for each row of the table."""
    own = np.where(np.isin(rows, gallery_rows), np.searchsorted(gallery_rows, rows), -1)
    if groups is None:
        return Exclusions(own)
    codes = encode_groups(groups)
    return Exclusions(own, codes[rows], codes[gallery_rows])


def _pair_blocks(
    vectors: np.ndarray,
    codes: np.ndarray,
    gallery_rows: np.ndarray,
    query_rows: np.ndarray,
    exclusions: Exclusions,
    block_bytes: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield query rows, their similarities to the gallery, and the masks of same-class and of other pairs."""
    gallery, gallery_codes = vectors[gallery_rows], codes[gallery_rows]
    step = max(1, block_bytes // max(1, 4 * len(gallery)))
    for start in range(0, len(query_rows), step):
        rows = query_rows[start : start + step]
        excluded = exclusions.excludes(rows[:, None], np.arange(len(gallery_rows)))
        same = codes[rows][:, None] == gallery_codes
        yield rows, vectors[rows] @ gallery.T, same & ~excluded, ~(same | excluded)


def _choose_queries(
    codes: np.ndarray, roles: np.ndarray, gallery_rows: np.ndarray, exclusions: Exclusions, most: int, seed: int
) -> tuple[np.ndarray, int]:
    relevant = ClassRelevance(codes, codes[gallery_rows], exclusions).counts()[:, 0]
    rows = np.flatnonzero((roles != "gallery") & (relevant > 0))
    if len(rows) <= most:
        return rows, len(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False)), len(rows)


def _count(similarities: np.ndarray) -> np.ndarray:
    return np.bincount(_bins(similarities), minlength=BINS)


def _bins(similarities: np.ndarray) -> np.ndarray:
    return np.clip(((similarities + 1.0) * (BINS / 2)).astype(np.int32), 0, BINS - 1)


def _nearest(similarities: np.ndarray, same: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the similarity of the nearest negative and the rank of the nearest positive of each query."""
    positives = np.where(same, similarities, -np.inf)
    best = positives.max(axis=1)
    negatives = np.where(other, similarities, -np.inf)
    tied_before = (negatives == best[:, None]) & (np.arange(same.shape[1]) < positives.argmax(axis=1)[:, None])
    first_hit = 1 + (negatives > best[:, None]).sum(axis=1) + tied_before.sum(axis=1)
    return negatives.max(axis=1), first_hit
