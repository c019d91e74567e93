"""Figures of pairs: similarity histograms, verification curves, and calibration."""

from collections.abc import Mapping
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.reporting.figures.style import BLUE, GREEN, INK, MUTED, ORANGE, VERMILION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RATES = (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95)  # ticks of the normal-deviate axes


def similarity_histogram(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw histograms of same-class pairs and of the hardest negative of each query."""
    axes = figure.add_subplot()
    similarities = report["similarities"]
    edges = np.asarray(similarities["edges"])
    right, wrong = (_density(similarities[side]) for side in ("positive", "hardest_negative"))
    axes.stairs(right, edges, fill=True, color=GREEN, alpha=0.30)
    axes.stairs(right, edges, color=GREEN, linewidth=1.8, label="pairs of one class")
    axes.stairs(wrong, edges, fill=True, color=VERMILION, alpha=0.18, hatch="///")
    axes.stairs(wrong, edges, color=VERMILION, linewidth=1.8, linestyle="--", label="hardest negative of a query")
    top = max(right.max(), wrong.max(), 1e-6)
    likely = report.get("thresholds", {}).get("likely_match")
    if likely:
        axes.axvline(likely["threshold"], color=INK, linewidth=1.4, linestyle=":")
        axes.annotate(
            f"threshold {likely['threshold']:.2f}",
            (likely["threshold"], top * 1.02),
            xytext=(-4, 0),
            textcoords="offset points",
            ha="right",
            fontsize=9.5,
        )
    if similarities.get("negative"):
        every = _density(similarities["negative"])
        axes.stairs(every * top / max(every.max(), 1e-9), edges, color=MUTED, linewidth=1.2, linestyle=":")
        axes.plot([], [], color=MUTED, linewidth=1.2, linestyle=":", label="all negatives (own scale)")
    used = np.flatnonzero((right + wrong) > 0.001 * top)
    if len(used):
        axes.set_xlim(edges[used[0]] - 0.02, min(1.0, edges[used[-1] + 1] + 0.02))
    axes.set_ylim(0, top * 1.45)
    axes.set_yticks([])
    axes.set_xlabel("cosine similarity (nearer to the right)")
    axes.legend(loc="upper left", fontsize=9.5)


def roc(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw the ROC with a logarithmic false-accept axis, and intervals at round rates."""
    axes = figure.add_subplot()
    values = report["verification"]
    false, true = (np.asarray(values["roc"][key]) for key in ("false_accept", "true_accept"))
    axes.plot(100 * false, 100 * true, color=BLUE, linewidth=2, label="this model")
    for entry in values["at"]:
        if "reason" not in entry and entry["false_accept"] > 0:
            low, high = entry["interval"]
            axes.plot([100 * entry["false_accept"]] * 2, [100 * low, 100 * high], color=INK, linewidth=1.6, marker="_")
            axes.plot(100 * entry["false_accept"], 100 * entry["true_accept"], "s", color=INK, markersize=5)
    axes.plot(100 * np.geomspace(false.min(), 1), 100 * np.geomspace(false.min(), 1), ":", color=MUTED, label="chance")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(100 * max(false.min(), 1e-6), 100)
    axes.set_ylim(0, 101)
    axes.set_xlabel("false accepts, % of pairs of different classes")
    axes.set_ylabel("true accepts, %")
    axes.legend(loc="upper left", fontsize=9.5)


def det(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw the DET curve: false rejects over false accepts, both on a normal-deviate scale."""
    axes = figure.add_subplot()
    values = report["verification"]
    false, missed = np.asarray(values["roc"]["false_accept"]), 1 - np.asarray(values["roc"]["true_accept"])
    inside = (false > 0) & (false < 1) & (missed > 0) & (missed < 1)
    axes.plot(_deviates(false[inside]), _deviates(missed[inside]), color=BLUE, linewidth=2)
    rate = float(np.clip(values["equal_error"]["rate"], 1e-6, 1 - 1e-6))
    axes.plot(_deviates([rate]), _deviates([rate]), "s", color=ORANGE, markersize=7)
    axes.annotate(
        f"equal error {100 * rate:.2g} %",
        (_deviates([rate])[0], _deviates([rate])[0]),
        xytext=(8, 5),
        textcoords="offset points",
        fontsize=9.5,
    )
    for axis, shares in ((axes.xaxis, false[inside]), (axes.yaxis, missed[inside])):
        low, high = (shares.min(), shares.max()) if len(shares) else (rate, rate)
        ticks = [tick for tick in _RATES if low / 2 <= tick <= max(high, rate)]
        axis.set_ticks(_deviates(ticks), [f"{100 * tick:g}" for tick in ticks])
    axes.set_xlabel("false accepts, %")
    axes.set_ylabel("false rejects, %")


def reliability(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw the reliability diagram on the evaluation split, with the number of neighbors per bin."""
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    values = report["calibration"]["check"]["probability"]
    upper.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=":", label="ideal")
    lines = [
        ("bins_before", values["error_before"], "cosine", ORANGE, "--", "s"),
        ("bins", values["error"]["value"], "match probability", BLUE, "-", "o"),
    ]
    for key, error, name, color, line, mark in lines:
        predicted, observed = ([100 * entry[side] for entry in values[key]] for side in ("predicted", "observed"))
        label = f"{name}: error {100 * error:.1f} points"
        upper.plot(predicted, observed, line, marker=mark, markersize=5, color=color, linewidth=2, label=label)
    bins = values["bins"]
    lower.bar([50 * (b["low"] + b["high"]) for b in bins], [b["pairs"] for b in bins], 9, color=BLUE, alpha=0.45)
    upper.set_ylabel("observed matches, %")
    upper.set_ylim(-2, 102)
    upper.legend(loc="upper left", fontsize=9)
    lower.set_ylabel("neighbours")
    lower.set_xlabel("predicted probability of a match, %")
    lower.set_xlim(0, 100)
    lower.yaxis.get_major_locator().set_params(nbins=3)


def risk_coverage(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw the error rate of the first neighbor over the share of queries answered, most certain first."""
    axes = figure.add_subplot()
    values = report["calibration"]["check"]["risk_coverage"]
    coverage, error = (100 * np.asarray(values[key]) for key in ("coverage", "error"))
    axes.plot(coverage, error, color=BLUE, linewidth=2)
    axes.fill_between(coverage, 0, error, color=BLUE, alpha=0.12)
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("queries answered, most certain first, %")
    axes.set_ylabel("errors among these, %")


def _deviates(shares) -> list[float]:
    normal = NormalDist()
    return [normal.inv_cdf(float(share)) for share in shares]


def _density(counts) -> np.ndarray:
    counts = np.asarray(counts, float)
    return counts / max(1.0, counts.sum())
