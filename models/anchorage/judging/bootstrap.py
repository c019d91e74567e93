"""Paired bootstrap over classes: how far a difference between two models may be luck of the classes.

Both models answer the same queries; whole classes are drawn with replacement, and each draw gives the difference of the
means over the queries of the drawn classes (percentile intervals: Efron & Tibshirani, 1993, chapter 13). Images of one
class rise and fall together, so drawing images instead would make every interval several times too narrow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_CHUNK = 100  # draws made at once


@dataclass(frozen=True)
class Differences:
    """Differences candidate - baseline, and what the draws made of them; one entry per column that was asked for.

    Args:
        names: `(K,)` what was compared.
        queries: `(K,)` queries behind each.
        classes: `(K,)` classes behind each.
        candidate: `(K,)` mean of the candidate.
        baseline: `(K,)` mean of the baseline.
        draws: `(B, K)` difference in each draw; nan where a draw holds no query.
    """

    names: tuple[str, ...]
    queries: np.ndarray
    classes: np.ndarray
    candidate: np.ndarray
    baseline: np.ndarray
    draws: np.ndarray

    def difference(self, at: int) -> float:
        """Candidate less baseline on the queries themselves."""
        return float(self.candidate[at] - self.baseline[at])

    def interval(self, at: int, level: float) -> tuple[float, float]:
        """Two-sided percentile interval."""
        low, high = np.nanquantile(self.draws[:, at], [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def lower_bound(self, at: int, confidence: float) -> float:
        """One-sided: the difference is above it with this confidence."""
        return float(np.nanquantile(self.draws[:, at], 1 - confidence))

    def p_worse(self, at: int, margin: float) -> float:
        """Chance, were the true loss no more than `margin`, of a loss as clear as this one; (1 + hits) / (1 + B)."""
        draws = self.draws[:, at]
        draws = draws[~np.isnan(draws)]
        return float((1 + np.count_nonzero(draws >= -margin - 1e-9)) / (1 + len(draws)))


def compare_by_classes(
    per_query: Mapping[str, tuple[np.ndarray, np.ndarray]],
    labels: np.ndarray,
    masks: Mapping[str, np.ndarray],
    *,
    resamples: int,
    seed: int,
) -> Differences:
    """Compare two models column by column, with the same draws of classes for all of them.

    Args:
        per_query: name -> (candidate, baseline), each `(Q,)`.
        labels: `(Q,)` class of each query.
        masks: the same names -> `(Q,)` bool, the queries that count.
        resamples: draws, B.
        seed: of the draws.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    names = tuple(per_query)
    sums, counts, means, found = [], [], [], []
    for name in names:
        candidate, baseline = (np.asarray(part, np.float64) for part in per_query[name])
        mask = masks[name]
        chosen = codes[mask]
        sums.append(np.bincount(chosen, (candidate - baseline)[mask], minlength=len(classes)))
        counts.append(np.bincount(chosen, minlength=len(classes)))
        means.append((candidate[mask].mean(), baseline[mask].mean()) if mask.any() else (np.nan, np.nan))
        found.append((int(mask.sum()), int((counts[-1] > 0).sum())))
    total, number = np.array(sums).T, np.array(counts, np.float64).T
    rng, draws = np.random.default_rng(seed), []
    for first in range(0, resamples, _CHUNK):
        shape = min(_CHUNK, resamples - first)
        weights = rng.multinomial(len(classes), np.full(len(classes), 1 / len(classes)), shape).astype(np.float64)
        size = weights @ number
        draws.append(np.where(size > 0, weights @ total / np.maximum(size, 1), np.nan))
    queries, class_counts = np.array(found).T
    candidate_means, baseline_means = np.array(means).T
    return Differences(names, queries, class_counts, candidate_means, baseline_means, np.concatenate(draws))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Scandinavian Journal of Statistics, 1979): small ones count among all that were tried.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.maximum.accumulate([(len(p_values) - rank) * p_values[at] for rank, at in enumerate(order)])
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted.tolist()
