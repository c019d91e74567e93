"""Same thing or not: ROC, equal error rate and true-accept rates over pairs, with intervals that know about classes.

A pair is a query and a gallery item; it is accepted when its similarity reaches the threshold. False accepts are the
share of other-class pairs accepted, true accepts that of same-class pairs. Every pair of the chosen queries counts;
similarities are told apart in steps of 0.0001, which is also the step of a threshold.

Pairs of one class rise and fall together, so the intervals come from resampling classes of queries with replacement
(percentile bootstrap), at the thresholds found on all pairs.
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
    """Verification numbers of a space.

    Args:
        pairs: counts over the same rows.
        vectors: `(M, D)` float32 of unit length.
        labels: `(M,)` classes.
        roles: `(M,)` "query", "gallery" or "both".
        targets: false-accept rates to stay at or below.
        resamples: bootstrap resamples of the classes.
        seed: of the bootstrap.
        groups: as for `pair_statistics`.

    Returns:
        JSON-ready: `pairs` counted; `roc` (`threshold`, `false_accept`, `true_accept`, about 200 points from strict to
        lax), `auc` under it, `auprc` of all pairs in one ranking (steps, as average precision); `equal_error` and, per
        target, `at`: `threshold`, rates and their `interval`s; `interval` says how those were made. A target that
        fewer than ten other-class pairs would have to decide has a `reason` instead. None without pairs of both kinds.
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
    """`(BINS + 1,)` share of the pairs at or above each edge."""
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
    """`(resamples, T)` true-accept and false-accept rates over classes drawn with replacement."""
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
    """Points spread evenly over the logarithm of the false-accept rate, where the interesting part lies."""
    least = false_accept[false_accept > 0].min()
    wanted = np.geomspace(least, 1.0, _CURVE)
    edges = np.unique([int(np.argmax(false_accept <= rate)) for rate in wanted])[::-1]
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
