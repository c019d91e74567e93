"""Paired bootstrap over classes: confidence intervals of the difference between two models.

Both models are evaluated on the same queries. Each resample draws classes with replacement and gives the difference of
the means over their queries (percentile intervals: Efron & Tibshirani, 1993, chapter 13). Images of one class are
correlated, so resampling images instead would make the intervals several times too narrow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anchorage.progress import track

_CHUNK = 100  # resamples computed at once
_TASK = "resampling the classes"


@dataclass(frozen=True)
class Differences:
    """Bootstrap distributions of the differences candidate - baseline of K quantities.

    Args:
        names: `(K,)` names of the quantities.
        queries: `(K,)` number of queries of each.
        classes: `(K,)` number of classes of each.
        candidate: `(K,)` mean of the candidate.
        baseline: `(K,)` mean of the baseline.
        draws: `(B, K)` difference in each resample; NaN if a resample has no query.
    """

    names: tuple[str, ...]
    queries: np.ndarray
    classes: np.ndarray
    candidate: np.ndarray
    baseline: np.ndarray
    draws: np.ndarray

    def difference(self, at: int) -> float:
        """Return the observed difference candidate - baseline."""
        return float(self.candidate[at] - self.baseline[at])

    def interval(self, at: int, level: float) -> tuple[float, float]:
        """Return the two-sided percentile interval."""
        low, high = np.nanquantile(self.draws[:, at], [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def lower_bound(self, at: int, confidence: float) -> float:
        """Return the one-sided lower confidence bound of the difference."""
        return float(np.nanquantile(self.draws[:, at], 1 - confidence))

    def p_worse(self, at: int, margin: float) -> float:
        """Return the p-value of the hypothesis that the loss is at most `margin`: (1 + hits) / (1 + B)."""
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
    """Compare two models in several quantities, with the same resamples of classes for all.

    Args:
        per_query: name -> (candidate, baseline), each `(Q,)`.
        labels: `(Q,)` class of each query.
        masks: name -> `(Q,)` bool, the queries to include.
        resamples: number of resamples, B.
        seed: seed of the resamples.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    names = tuple(per_query)
    sums, counts, means, sizes = [], [], [], []
    for name in names:
        candidate, baseline = (np.asarray(part, np.float64) for part in per_query[name])
        mask = masks[name]
        included = codes[mask]
        sums.append(np.bincount(included, (candidate - baseline)[mask], minlength=len(classes)))
        counts.append(np.bincount(included, minlength=len(classes)))
        means.append((candidate[mask].mean(), baseline[mask].mean()) if mask.any() else (np.nan, np.nan))
        sizes.append((int(mask.sum()), int((counts[-1] > 0).sum())))
    total, number = np.array(sums).T, np.array(counts, np.float64).T
    rng, draws = np.random.default_rng(seed), []
    for first in track(range(0, resamples, _CHUNK), _TASK):
        chunk = min(_CHUNK, resamples - first)
        weights = rng.multinomial(len(classes), np.full(len(classes), 1 / len(classes)), chunk).astype(np.float64)
        drawn_queries = weights @ number
        draws.append(np.where(drawn_queries > 0, weights @ total / np.maximum(drawn_queries, 1), np.nan))
    queries, class_counts = np.array(sizes).T
    candidate_means, baseline_means = np.array(means).T
    return Differences(names, queries, class_counts, candidate_means, baseline_means, np.concatenate(draws))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple tests by Holm's method (Scandinavian Journal of Statistics, 1979).

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.maximum.accumulate([(len(p_values) - rank) * p_values[at] for rank, at in enumerate(order)])
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted.tolist()
