"""From similarity to the probability of a match, and from which similarity on to say "unknown".

Both are fitted on classes that neither training nor test has seen. The probability is isotonic in the similarity
(Zadrozny & Elkan, KDD 2002), over the pairs that a search shows: each query with its nearest gallery images. How well
it holds is measured on classes left out of the fit, fold by fold. The threshold for "unknown" is that of split
conformal prediction: a query whose class is not in the gallery is one whose own class was taken out of it, and the
threshold stands so high among the best wrong similarities of `n` such queries, that a further one from the same source
passes it with a probability of at most the target. Images of one class are not independent, and a larger gallery holds
nearer strangers: the promise is as good as the validation classes stand for what comes.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from models.retrieval.metrics import evaluate_retrieval
from models.retrieval.pairs import pair_statistics

_FOLDS = 5
_BINS = 10
_KNOTS = 200  # of the stored curve
_CURVE = 50  # points of the risk-coverage curve
_FEW = 20  # pairs of either kind needed to fit anything


def calibrate(
    vectors: np.ndarray,
    labels: np.ndarray,
    roles: np.ndarray,
    *,
    split: str,
    target: float = 0.05,
    neighbors: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit match probability and the threshold for "unknown".

    Args:
        vectors: `(M, D)` float32 of unit length, of validation classes.
        labels: `(M,)` their classes.
        roles: `(M,)` "query", "gallery" or "both".
        split: their split's name, kept in the answer.
        target: most queries of unknown classes that may be answered, in (0, 1).
        neighbors: nearest gallery images that a search shows.
        seed: deals the classes to folds.

    Returns:
        JSON-ready: `probability` (`similarity` and `probability`, the corners of a rising curve); `reliability`
        (`bins`, `bins_before`, `ece`, `ece_before`, `brier`, `brier_before`, `folds`; "before" takes the similarity
        itself for a probability); `unknown` (`threshold`, `target`, `false_accept`, `known_answered`, `queries`);
        `risk_coverage` (`coverage`, `error`: of the queries answered, most certain first, how many wrongly); `pairs`,
        `classes`, `gallery`, `neighbors`, `split`. With only `split` and `reason` where there is too little to fit.
    """
    codes = np.unique(labels, return_inverse=True)[1]
    found_in = np.flatnonzero(roles != "query")
    depth = min(neighbors, len(found_in) - 1)
    if depth < 1 or np.bincount(codes[found_in], minlength=2).max() < 2 or len(np.unique(codes)) < _FOLDS:
        return _nothing(split, f"{len(labels)} images of {len(np.unique(codes))} classes are too few")
    result = evaluate_retrieval(vectors, codes, roles, ["recall@1"], keep_neighbors=depth)
    scores = result.neighbor_similarities.astype(np.float64)
    hits = codes[result.neighbor_rows] == codes[result.query_rows][:, None]
    if min(hits.sum(), (~hits).sum()) < _FEW:
        return _nothing(split, f"{int(hits.sum())} right and {int((~hits).sum())} wrong neighbours are too few")
    query_codes = codes[result.query_rows]
    curve = _fit(scores.ravel(), hits.ravel())
    return {
        "split": split,
        "similarity": "cosine",
        "neighbors": depth,
        "gallery": result.num_gallery,
        "classes": len(np.unique(query_codes)),
        "pairs": {"right": int(hits.sum()), "wrong": int((~hits).sum())},
        "probability": curve,
        "reliability": _reliability(scores, hits, query_codes, seed),
        "unknown": _unknown(vectors, labels, roles, scores[:, 0], target, seed),
        "risk_coverage": _risk_coverage(scores[:, 0], hits[:, 0]),
    }


def match_probability(calibration: Mapping[str, Any], similarities: np.ndarray) -> np.ndarray:
    """Probability of a match at each similarity, of the same shape, by a calibration that has a `probability`."""
    curve = calibration["probability"]
    return np.interp(similarities, curve["similarity"], curve["probability"])


def expected_calibration_error(probabilities: np.ndarray, hits: np.ndarray) -> tuple[float, list[dict[str, float]]]:
    """Mean gap between predicted and observed share over ten even bins (Naeini et al., AAAI 2015), and the bins."""
    places = np.minimum((probabilities * _BINS).astype(np.int64), _BINS - 1)
    pairs = np.bincount(places, minlength=_BINS)
    predicted, observed = (np.bincount(places, values, minlength=_BINS) for values in (probabilities, hits))
    gap = float(np.abs(predicted - observed).sum() / len(hits))
    bins = [
        {
            "low": at / _BINS,
            "high": (at + 1) / _BINS,
            "pairs": int(pairs[at]),
            "predicted": float(predicted[at] / pairs[at]),
            "observed": float(observed[at] / pairs[at]),
        }
        for at in np.flatnonzero(pairs).tolist()
    ]
    return gap, bins


def _nothing(split: str, why: str) -> dict[str, Any]:
    return {"split": split, "reason": f"split {split!r}: {why} to fit a match probability"}


def _fit(scores: np.ndarray, hits: np.ndarray) -> dict[str, list[float]]:
    """Corners of the isotonic curve; never quite 0 or 1, which no number of pairs can show."""
    from sklearn.isotonic import IsotonicRegression

    least = 1 / (len(hits) + 2)
    fitted = IsotonicRegression(y_min=least, y_max=1 - least).fit(scores, hits.astype(np.float64))
    x, y = fitted.X_thresholds_, fitted.y_thresholds_
    kept = np.unique(np.linspace(0, len(x) - 1, min(_KNOTS, len(x))).round().astype(int))
    return {"similarity": x[kept].tolist(), "probability": y[kept].tolist()}


def _reliability(scores: np.ndarray, hits: np.ndarray, codes: np.ndarray, seed: int) -> dict[str, Any]:
    classes = np.unique(codes)
    fold_of_class = np.random.default_rng(seed).permutation(len(classes)) % _FOLDS
    fold = fold_of_class[np.searchsorted(classes, codes)]
    predicted = np.empty(scores.shape)
    for number in range(_FOLDS):
        held = fold == number
        curve = _fit(scores[~held].ravel(), hits[~held].ravel())
        predicted[held] = match_probability({"probability": curve}, scores[held])
    truth, raw = hits.ravel().astype(np.float64), np.clip(scores.ravel(), 0, 1)
    ece, bins = expected_calibration_error(predicted.ravel(), truth)
    ece_before, bins_before = expected_calibration_error(raw, truth)
    return {
        "ece": ece,
        "ece_before": ece_before,
        "brier": float(((predicted.ravel() - truth) ** 2).mean()),
        "brier_before": float(((raw - truth) ** 2).mean()),
        "bins": bins,
        "bins_before": bins_before,
        "folds": f"{_FOLDS} folds of classes",
    }


def _unknown(
    vectors: np.ndarray, labels: np.ndarray, roles: np.ndarray, best: np.ndarray, target: float, seed: int
) -> dict[str, Any]:
    wrong = pair_statistics(vectors, labels, roles, seed=seed).hardest_negative
    wrong = np.sort(wrong[np.isfinite(wrong)])
    rank = math.ceil((len(wrong) + 1) * (1 - target))
    if rank > len(wrong):
        return {"reason": f"{len(wrong)} queries are too few to promise a rate of {target:g}", "target": target}
    threshold = float(np.nextafter(wrong[rank - 1], np.float32(2)))  # answered from here on
    return {
        "threshold": threshold,
        "target": target,
        "false_accept": float((wrong >= threshold).mean()),
        "known_answered": float((best >= threshold).mean()),
        "queries": len(wrong),
        "rule": f"at most {100 * target:g} % of queries of classes that are not in the gallery get an answer",
    }


def _risk_coverage(best: np.ndarray, right: np.ndarray) -> dict[str, list[float]]:
    order = np.argsort(-best, kind="stable")
    errors = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
    at = np.unique(np.linspace(1, len(order), min(_CURVE, len(order))).round().astype(int))
    return {"coverage": (at / len(order)).tolist(), "error": errors[at - 1].tolist()}
