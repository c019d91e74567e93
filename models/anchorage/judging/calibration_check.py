"""Whether match probability and "unknown" hold on the evaluation split, which had no part in fitting them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.judging.settings import TEST, VALIDATION, JudgeSettings
from anchorage.retrieval.calibration import (
    BINS,
    Shown,
    bin_of,
    calibrate,
    calibration_error,
    match_probability,
    show_neighbors,
)

if TYPE_CHECKING:
    from anchorage.retrieval.table import Embeddings

_TOLERANCE = 2  # times the target: the most false accepts that count as kept
_LEVEL = 0.95  # of the intervals
_DRAWS = 1000  # of the classes
_CURVE = 50  # points of the risk-coverage curve


def calibrate_and_check(
    test: "Embeddings",
    validation: "Embeddings | None",
    gallery: "Embeddings",
    settings: JudgeSettings,
) -> dict[str, Any]:
    """Fit on validation queries, check on test queries, both in the gallery to be released.

    Args:
        test: embeddings of the evaluation split.
        validation: embeddings of the validation split, if there are any.
        gallery: embeddings of the index's rows.
        settings: `false_accepts`, `max_calibration_error`, `require_calibration` and `seed` are looked at.

    Returns:
        What `calibrate` gives, and `check`: `split`, `queries`, `classes`, `gallery`; `probability` with `error`,
        `predicted` and `observed` (each with `value`, `low` and `high`, an interval over classes), `brier`, `limit`,
        `holds`, `statement`, `bins`, and `bins_before` and `error_before`, where the cosine is taken for a probability;
        `unknown` with `false_accept` and `answered` (share of queries of known classes), `limit`, `holds` and
        `statement`, or `reason`; `risk_coverage` (`coverage` and `error`: of the queries answered, most certain first,
        how many have a wrong first answer). And `faults`, sentences for the gate.
    """
    seed, required = settings.seed, settings.require_calibration
    if validation is None:
        fitted: dict[str, Any] = {
            "split": VALIDATION,
            "reason": f"there are no embeddings of split {VALIDATION!r} to fit a match probability",
        }
    else:
        shown = show_neighbors(validation, gallery, seed=seed)
        fitted = calibrate(shown, split=VALIDATION, target=settings.false_accepts, seed=seed)
    if "reason" in fitted:
        return {**fitted, "faults": [f"No match probability: {fitted['reason']}."] if required else []}
    shown = show_neighbors(test, gallery, seed=seed)
    if shown is None:
        reason = f"no query of split {TEST!r} has another image of its class in the index, so nothing can be checked"
        return {"split": VALIDATION, "reason": reason, "faults": [reason] if required else []}
    check = _check(fitted, shown, settings.max_calibration_error, seed)
    broken = [entry.get("statement", "") for entry in (check["probability"], check["unknown"]) if not entry["holds"]]
    return {**fitted, "check": check, "faults": list(filter(None, broken)) if required else []}


def draw_classes(codes: np.ndarray, columns: np.ndarray, *, draws: int = _DRAWS, seed: int = 0) -> np.ndarray:
    """Sums of columns over whole classes drawn with replacement: the bootstrap of a sample whose units are classes.

    Args:
        codes: `(Q,)` class of each query.
        columns: `(Q, C)` numbers to sum.
        draws: how often as many classes as there are are drawn.
        seed: of the draws.

    Returns:
        `(draws, C)`.
    """
    _, places = np.unique(codes, return_inverse=True)
    count = int(places.max()) + 1
    sums = np.zeros((count, columns.shape[1]))
    np.add.at(sums, places, columns)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws)
    return times @ sums


def _check(fitted: Mapping[str, Any], shown: Shown, max_error: float, seed: int) -> dict[str, Any]:
    voters = fitted["probability"]["neighbors"]
    shown = replace(shown, similarities=shown.similarities[:, :voters], labels=shown.labels[:, :voters])
    chances = match_probability(fitted["probability"], shown.similarities, shown.labels)
    drawn = _draw(shown, chances, fitted["unknown"].get("threshold", np.inf), seed)
    return {
        "split": TEST,
        "queries": len(shown.classes),
        "classes": len(np.unique(shown.classes)),
        "gallery": shown.gallery,
        "probability": _check_probability(shown, chances, drawn, max_error),
        "unknown": _check_unknown(shown, fitted["unknown"], drawn),
        "risk_coverage": _risk_coverage(chances[:, 0], shown.hits[:, 0]),
    }


def _draw(shown: Shown, chances: np.ndarray, threshold: float, seed: int) -> dict[str, np.ndarray]:
    """Each share and the calibration error, in many draws of the classes."""
    places = np.arange(len(chances))[:, None] * BINS + bin_of(chances)
    said, seen = (
        np.bincount(places.ravel(), values.ravel(), minlength=len(chances) * BINS).reshape(-1, BINS)
        for values in (chances, shown.hits.astype(np.float64))
    )
    accepted = shown.strangers >= threshold
    answered = shown.similarities[:, 0] >= threshold
    sums = draw_classes(shown.classes, np.column_stack([said, seen, accepted, answered, np.ones(len(said))]), seed=seed)
    said, seen, (accepted, answered, queries) = sums[:, :BINS], sums[:, BINS : 2 * BINS], sums[:, 2 * BINS :].T
    pairs = queries * chances.shape[1]
    return {
        "error": np.abs(said - seen).sum(axis=1) / pairs,
        "predicted": said.sum(axis=1) / pairs,
        "observed": seen.sum(axis=1) / pairs,
        "false_accept": accepted / queries,
        "answered": answered / queries,
    }


def _check_probability(
    shown: Shown, chances: np.ndarray, drawn: Mapping[str, np.ndarray], max_error: float
) -> dict[str, Any]:
    truth = shown.hits.astype(np.float64).ravel()
    error, bins = calibration_error(chances.ravel(), truth)
    error_before, bins_before = calibration_error(np.clip(shown.similarities.ravel(), 0, 1), truth)
    found = _with_interval(error, drawn["error"])
    holds = error <= max_error
    return {
        "error": found,
        "predicted": _with_interval(chances.mean(), drawn["predicted"]),
        "observed": _with_interval(truth.mean(), drawn["observed"]),
        "brier": float(((chances.ravel() - truth) ** 2).mean()),
        "limit": max_error,
        "holds": holds,
        "statement": f"{'Holds' if holds else 'Does not hold'}: the calibration error is {error:.3f} "
        f"({found['low']:.3f} to {found['high']:.3f}), at most {max_error:g} is promised; on average "
        f"{100 * chances.mean():.0f} % was said and {100 * truth.mean():.0f} % of the answers match."
        + ("" if holds else " Search shows no match probability."),
        "bins": bins,
        "bins_before": bins_before,
        "error_before": error_before,
    }


def _check_unknown(shown: Shown, fitted: Mapping[str, Any], drawn: Mapping[str, np.ndarray]) -> dict[str, Any]:
    if "threshold" not in fitted:
        return {"holds": False, "reason": fitted["reason"]}
    wrong = float((shown.strangers >= fitted["threshold"]).mean())
    answered = float((shown.similarities[:, 0] >= fitted["threshold"]).mean())
    target, holds = fitted["target"], wrong <= _TOLERANCE * fitted["target"]
    found = _with_interval(wrong, drawn["false_accept"])
    return {
        "false_accept": found,
        "answered": _with_interval(answered, drawn["answered"]),
        "limit": _TOLERANCE * target,
        "holds": holds,
        "statement": f"{'Holds' if holds else 'Does not hold'}: {100 * wrong:.1f} % ({100 * found['low']:.1f} to "
        f"{100 * found['high']:.1f}) of the queries get an answer although their class is not in the gallery; the "
        f"target is {100 * target:g} %, up to {100 * _TOLERANCE * target:g} % is tolerated. Of those whose class is "
        f"in it, {100 * answered:.1f} % get one." + ("" if holds else " Search calls nothing unknown."),
    }


def _with_interval(value: float, draws: np.ndarray) -> dict[str, float]:
    """A value with its percentile interval, which reaches to the value: a calibration error is never drawn too low."""
    low, high = np.quantile(draws, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]).tolist()
    return {"value": float(value), "low": min(low, float(value)), "high": max(high, float(value))}


def _risk_coverage(chances: np.ndarray, right: np.ndarray) -> dict[str, list[float]]:
    order = np.argsort(-chances, kind="stable")
    errors = np.cumsum(~right[order]) / np.arange(1, len(order) + 1)
    at = np.unique(np.linspace(1, len(order), min(_CURVE, len(order))).round().astype(int))
    return {"coverage": (at / len(order)).tolist(), "error": errors[at - 1].tolist()}
