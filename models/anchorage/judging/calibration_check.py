"""Validation of the match probability and of the threshold for "unknown" on the evaluation split."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.judging.settings import TEST, VALIDATION, JudgeSettings
from anchorage.retrieval.calibration import (
    BINS,
    NeighborSample,
    bin_of,
    calibrate,
    calibration_error,
    match_probability,
    sample_neighbors,
)

if TYPE_CHECKING:
    from anchorage.retrieval.table import Embeddings

_TOLERANCE = 2  # the false-accept rate may be at most this multiple of its target
_LEVEL = 0.95  # of the intervals
_DRAWS = 1000  # bootstrap resamples of the classes
_CURVE = 50  # points of the risk-coverage curve


def calibrate_and_check(
    test: "Embeddings",
    validation: "Embeddings | None",
    gallery: "Embeddings",
    settings: JudgeSettings,
) -> dict[str, Any]:
    """Fit on validation queries and validate on test queries, both searched in the gallery to be released.

    Args:
        test: embeddings of the evaluation split.
        validation: embeddings of the validation split, or None.
        gallery: embeddings of the rows of the index.
        settings: uses `false_accepts`, `max_calibration_error`, `require_calibration` and `seed`.

    Returns:
        The result of `calibrate`, whose `split` is that without enough queries if there is a `reason`, with `check`:
        `split`, `queries`, `classes`, `gallery`; `probability` with `error`, `predicted` and `observed` (each with
        `value`, `low` and `high`, an interval over classes), `brier`, `limit`, `holds`, `statement`, `bins`, and
        `bins_before` and `error_before`, those of the cosine as a probability; `unknown` with `false_accept` and
        `answered` (share of queries of known classes), `limit`, `holds` and `statement`, or `reason`; `risk_coverage`
        (`coverage` and `error`: the share of wrong first neighbors among the queries answered, most certain first).
        Also `faults`, sentences for the gate.
    """
    seed, required = settings.seed, settings.require_calibration
    if validation is None:
        fitted: dict[str, Any] = {
            "split": VALIDATION,
            "reason": f"there are no embeddings of split {VALIDATION!r} to fit a match probability",
        }
    else:
        sample = sample_neighbors(validation, gallery, seed=seed)
        fitted = calibrate(sample, split=VALIDATION, target=settings.false_accepts, seed=seed)
    if "reason" in fitted:
        return {**fitted, "faults": [f"No match probability: {fitted['reason']}."] if required else []}
    sample = sample_neighbors(test, gallery, seed=seed)
    if sample is None:
        reason = f"no query of split {TEST!r} has another image of its class in the index, so it cannot be validated"
        return {"split": TEST, "reason": reason, "faults": [reason] if required else []}
    check = _check(fitted, sample, settings.max_calibration_error, seed)
    failed = [entry.get("statement", "") for entry in (check["probability"], check["unknown"]) if not entry["holds"]]
    return {**fitted, "check": check, "faults": list(filter(None, failed)) if required else []}


def draw_classes(codes: np.ndarray, columns: np.ndarray, *, draws: int = _DRAWS, seed: int = 0) -> np.ndarray:
    """Compute bootstrap resamples of column sums, with classes as the sampling unit.

    Args:
        codes: `(Q,)` class of each query.
        columns: `(Q, C)` values to sum.
        draws: number of resamples.
        seed: seed of the resamples.

    Returns:
        `(draws, C)` sums.
    """
    _, rows = np.unique(codes, return_inverse=True)
    count = int(rows.max()) + 1
    sums = np.zeros((count, columns.shape[1]))
    np.add.at(sums, rows, columns)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws)
    return weights @ sums


def _check(fitted: Mapping[str, Any], sample: NeighborSample, max_error: float, seed: int) -> dict[str, Any]:
    voters = fitted["probability"]["neighbors"]
    sample = replace(sample, similarities=sample.similarities[:, :voters], labels=sample.labels[:, :voters])
    probabilities = match_probability(fitted["probability"], sample.similarities, sample.labels)
    resampled = _resample(sample, probabilities, fitted["unknown"].get("threshold", np.inf), seed)
    return {
        "split": TEST,
        "queries": len(sample.classes),
        "classes": len(np.unique(sample.classes)),
        "gallery": sample.gallery,
        "probability": _check_probability(sample, probabilities, resampled, max_error),
        "unknown": _check_unknown(sample, fitted["unknown"], resampled),
        "risk_coverage": _risk_coverage(probabilities[:, 0], sample.hits[:, 0]),
    }


def _resample(sample: NeighborSample, probabilities: np.ndarray, threshold: float, seed: int) -> dict[str, np.ndarray]:
    """Compute all rates and the calibration error in bootstrap resamples of the classes."""
    bins = np.arange(len(probabilities))[:, None] * BINS + bin_of(probabilities)
    predicted, observed = (
        np.bincount(bins.ravel(), values.ravel(), minlength=len(probabilities) * BINS).reshape(-1, BINS)
        for values in (probabilities, sample.hits.astype(np.float64))
    )
    accepted = sample.nearest_other >= threshold
    answered = sample.similarities[:, 0] >= threshold
    columns = np.column_stack([predicted, observed, accepted, answered, np.ones(len(predicted))])
    sums = draw_classes(sample.classes, columns, seed=seed)
    predicted, observed = sums[:, :BINS], sums[:, BINS : 2 * BINS]
    accepted, answered, queries = sums[:, 2 * BINS :].T
    pairs = queries * probabilities.shape[1]
    return {
        "error": np.abs(predicted - observed).sum(axis=1) / pairs,
        "predicted": predicted.sum(axis=1) / pairs,
        "observed": observed.sum(axis=1) / pairs,
        "false_accept": accepted / queries,
        "answered": answered / queries,
    }


def _check_probability(
    sample: NeighborSample, probabilities: np.ndarray, resampled: Mapping[str, np.ndarray], max_error: float
) -> dict[str, Any]:
    truth = sample.hits.astype(np.float64).ravel()
    error, bins = calibration_error(probabilities.ravel(), truth)
    error_before, bins_before = calibration_error(np.clip(sample.similarities.ravel(), 0, 1), truth)
    interval = _with_interval(error, resampled["error"])
    holds = error <= max_error
    return {
        "error": interval,
        "predicted": _with_interval(probabilities.mean(), resampled["predicted"]),
        "observed": _with_interval(truth.mean(), resampled["observed"]),
        "brier": float(((probabilities.ravel() - truth) ** 2).mean()),
        "limit": max_error,
        "holds": holds,
        "statement": f"{'Holds' if holds else 'Does not hold'}: the calibration error is {error:.3f} "
        f"({interval['low']:.3f} to {interval['high']:.3f}), the limit is {max_error:g}; the mean probability is "
        f"{100 * probabilities.mean():.0f} %, and {100 * truth.mean():.0f} % of the neighbours match."
        + ("" if holds else " Search shows no match probability."),
        "bins": bins,
        "bins_before": bins_before,
        "error_before": error_before,
    }


def _check_unknown(
    sample: NeighborSample, fitted: Mapping[str, Any], resampled: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    if "threshold" not in fitted:
        return {"holds": False, "reason": fitted["reason"]}
    wrong = float((sample.nearest_other >= fitted["threshold"]).mean())
    answered = float((sample.similarities[:, 0] >= fitted["threshold"]).mean())
    target, holds = fitted["target"], wrong <= _TOLERANCE * fitted["target"]
    interval = _with_interval(wrong, resampled["false_accept"])
    return {
        "false_accept": interval,
        "answered": _with_interval(answered, resampled["answered"]),
        "limit": _TOLERANCE * target,
        "holds": holds,
        "statement": f"{'Holds' if holds else 'Does not hold'}: {100 * wrong:.1f} % ({100 * interval['low']:.1f} to "
        f"{100 * interval['high']:.1f}) of the queries whose class is not in the gallery are accepted; the target is "
        f"{100 * target:g} %, the limit {100 * _TOLERANCE * target:g} %. Of the queries whose class is in the gallery, "
        f"{100 * answered:.1f} % are accepted." + ("" if holds else " Search marks no query as unknown."),
    }


def _with_interval(value: float, draws: np.ndarray) -> dict[str, float]:
    """Return a value with its percentile interval, extended to contain the value.

    The calibration error of a resample is biased upward, so its interval can lie above the value.
    """
    low, high = np.quantile(draws, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]).tolist()
    return {"value": float(value), "low": min(low, float(value)), "high": max(high, float(value))}


def _risk_coverage(probabilities: np.ndarray, hits: np.ndarray) -> dict[str, list[float]]:
    order = np.argsort(-probabilities, kind="stable")
    errors = np.cumsum(~hits[order]) / np.arange(1, len(order) + 1)
    at = np.unique(np.linspace(1, len(order), min(_CURVE, len(order))).round().astype(int))
    return {"coverage": (at / len(order)).tolist(), "error": errors[at - 1].tolist()}
