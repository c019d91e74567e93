"""Verification metrics of pairs: ROC, equal error rate and true-accept rates, with bootstrap intervals over classes.

A pair of a query and a gallery item is accepted if its similarity is at or above the threshold. The false-accept rate
is the share of other-class pairs that are accepted, the true-accept rate that of same-class pairs. All pairs of the
sampled queries count; similarities and thresholds have a resolution of 0.0001.

Pairs of one class are correlated, so the confidence intervals resample the classes of queries with replacement
(percentile bootstrap), at the thresholds of the full data.
"""

from typing import Any

import numpy as np

from anchorage.retrieval.pairs import EDGES, Accepted, PairStatistics, count_accepted

TARGETS = (1e-1, 1e-2, 1e-3, 1e-4)
_LEVEL = 0.95
_CURVE = 200  # points of the curve


def verification(
    pairs: PairStatistics,
    vectors: np.ndarray,
    labels: np.ndarray,
    roles: np.ndarray,
    *,
    targets: tuple[float, ...] = TARGETS,
    resamples: int = 1000,
    seed: int = 0,
    groups: np.ndarray | None = None,
) -> dict[str, Any] | None:
    """Compute the verification metrics of embeddings.

    Args:
        pairs: result of `pair_statistics` for the same rows.
        vectors: `(M, D)` float32 of unit length.
        labels: `(M,)` classes.
        roles: `(M,)` "query", "gallery" or "both".
        targets: upper limits of the false-accept rate.
        resamples: number of bootstrap resamples of the classes.
        seed: seed of the bootstrap.
        groups: as for `pair_statistics`.

    Returns:
        JSON-ready dict: number of `pairs`; `roc` (`threshold`, `false_accept`, `true_accept`, about 200 points from
        high to low thresholds), its `auc`, and `auprc` of all pairs in one ranking (the average precision);
        `equal_error` and, per target, `at`: `threshold`, rates and their `interval`s; `interval` describes the method
        of the intervals. A target that fewer than ten other-class pairs would decide has a `reason` instead. None if
        there are no same-class or no other-class pairs.
    """
    positives, negatives = int(pairs.positive.sum()), int(pairs.negative.sum())
    if not positives or not negatives:
        return None
    true_accept, false_accept = accepted_share(pairs.positive), accepted_share(pairs.negative)
    equal = int(np.argmin(np.abs((1.0 - true_accept) - false_accept)))
    decided = [target for target in targets if target * negatives >= 10]
    strict = [int(np.argmax(false_accept <= target)) for target in decided]
    edges = np.array([equal, *strict])
    accepted = count_accepted(vectors, labels, roles, pairs.query_rows, edges, groups=groups)
    resampled = _resample(accepted, np.asarray(labels)[pairs.query_rows], resamples, seed)
    at: list[dict[str, Any]] = []
    for target in targets:
        if target not in decided:
            reason = f"only {negatives:,} pairs of different classes: too few to measure a rate of {target:g}"
            at.append({"target": target, "reason": reason})
            continue
        place = decided.index(target)
        at.append({"target": target, **_rates(strict[place], true_accept, false_accept, resampled, place + 1)})
        at[-1]["accepted_other_pairs"] = round(false_accept[strict[place]] * negatives)
    errors = [1 - resampled[0][:, 0], resampled[1][:, 0]]
    return {
        "similarity": "cosine",
        "queries": len(pairs.query_rows),
        "all_queries": pairs.all_queries,
        "pairs": {"same_class": positives, "other": negatives},
        "roc": _curve(true_accept, false_accept),
        "auc": float(np.trapezoid(true_accept[::-1], false_accept[::-1])),
        "auprc": _average_precision(pairs),
        "equal_error": {
            "rate": float(((1 - true_accept[equal]) + false_accept[equal]) / 2),
            "threshold": _threshold(equal),
            "interval": _interval((errors[0] + errors[1]) / 2),
        },
        "at": at,
        "interval": {"level": _LEVEL, "method": "bootstrap over the queries' classes", "resamples": resamples},
    }


def accepted_share(counts: np.ndarray) -> np.ndarray:
    """Return the share `(BINS + 1,)` of the pairs at or above each edge."""
    at_or_above = np.concatenate([np.cumsum(counts[::-1])[::-1], [0]])
    return at_or_above / counts.sum()


def _rates(
    edge: int, true_accept: np.ndarray, false_accept: np.ndarray, resampled: tuple[np.ndarray, np.ndarray], place: int
) -> dict[str, Any]:
    return {
        "threshold": _threshold(edge),
        "false_accept": float(false_accept[edge]),
        "false_accept_interval": _interval(resampled[1][:, place]),
        "true_accept": float(true_accept[edge]),
        "interval": _interval(resampled[0][:, place]),
    }


def _resample(accepted: Accepted, labels: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute true-accept and false-accept rates `(resamples, T)` over classes drawn with replacement."""
    classes, codes = np.unique(labels, return_inverse=True)
    sums = [np.zeros((len(classes), *part.shape[1:])) for part in accepted]
    for total, part in zip(sums, accepted, strict=True):
        np.add.at(total, codes, part)
    rng = np.random.default_rng(seed)
    rates = np.empty((2, resamples, accepted.positive.shape[1]))
    for number in range(resamples):
        weights = np.bincount(rng.integers(0, len(classes), len(classes)), minlength=len(classes))
        positive, negative, positives, negatives = (weights @ total for total in sums)
        rates[:, number] = positive / positives, negative / np.maximum(negatives, 1)
    return rates[0], rates[1]


def _curve(true_accept: np.ndarray, false_accept: np.ndarray) -> dict[str, list[float]]:
    """Choose points of the ROC that are evenly spaced in the logarithm of the false-accept rate."""
    lowest = false_accept[false_accept > 0].min()
    rates = np.geomspace(lowest, 1.0, _CURVE)
    edges = np.unique([int(np.argmax(false_accept <= rate)) for rate in rates])[::-1]
    return {
        "threshold": [_threshold(edge) for edge in edges],
        "false_accept": false_accept[edges].tolist(),
        "true_accept": true_accept[edges].tolist(),
    }


def _average_precision(pairs: PairStatistics) -> float:
    true, false = (np.cumsum(counts[::-1]) for counts in (pairs.positive, pairs.negative))
    precision = true / np.maximum(true + false, 1)
    return float((precision * pairs.positive[::-1]).sum() / true[-1])


def _interval(values: np.ndarray) -> list[float]:
    return np.quantile(values, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]).tolist()


def _threshold(edge: int) -> float:
    return round(float(EDGES[edge]), 4)
