"""Figures of the training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.reporting.figures.style import BLUE, GREEN, INK, MUTED, ORANGE, VERMILION

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_curve(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw validation metrics (top) and training loss (bottom) by epoch; epoch 0 is the network before training."""
    history = report["training"]
    numbers = [row["epoch"] for row in history["epochs"]]
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    lines = [("val_map@r", "MAP@R", BLUE, "-"), ("val_recall@1", "recall@1", GREEN, "--")]
    for key, name, color, line in lines:
        values = [row.get(key) for row in history["epochs"]]
        if any(value is not None for value in values):
            percent = [np.nan if value is None else 100 * value for value in values]
            upper.plot(numbers, percent, line, marker=".", color=color, linewidth=1.8, label=name)
    losses = [row.get("loss", np.nan) for row in history["epochs"]]
    lower.plot(numbers, losses, color=MUTED, linewidth=1.8, marker=".")
    for axes in (upper, lower):
        axes.axvline(history["best_epoch"], color=INK, linewidth=1.2, linestyle=":")
    if upper.lines[:-1]:
        upper.legend(loc="lower right", fontsize=9.5)
    upper.set_ylabel("validation, %")
    lower.set_ylabel("loss")
    lower.set_xlabel("epoch")
    lower.xaxis.get_major_locator().set_params(integer=True)


def diagnostics(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw the effective rank (top), and active pairs, gradient from positives and dead proxies (bottom)."""
    epochs = report["training"]["epochs"]
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2, 3])
    numbers = [row["epoch"] for row in epochs]
    upper.plot(numbers, _values(epochs, "effective_rank"), color=INK, linewidth=1.8, marker=".")
    upper.set_ylabel("effective rank")
    upper.set_ylim(bottom=0)
    lines = [
        ("active_pairs", "active pairs", BLUE, "-"),
        ("positive_gradient_share", "gradient from positives", GREEN, "--"),
        ("dead_proxies", "dead proxies", VERMILION, ":"),
        ("proxy_distance", "class to proxy, 1 − cosine", ORANGE, "-."),  # noqa: RUF001
    ]
    for key, name, color, line in lines:
        if any(key in row for row in epochs):
            lower.plot(numbers, 100 * _values(epochs, key), line, color=color, linewidth=1.8, label=name)
    if lower.lines:
        lower.legend(loc="upper center", ncols=2, fontsize=8.5)
    lower.set_ylim(0, 1.5 * lower.get_ylim()[1])  # space for the legend above the lines
    lower.set_ylabel("%")
    lower.set_xlabel("epoch")
    lower.xaxis.get_major_locator().set_params(integer=True)


def _values(epochs: list, key: str) -> np.ndarray:
    """Return a column of the history, with NaN for missing values."""
    return np.array([row.get(key, np.nan) for row in epochs], float)
