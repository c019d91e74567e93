"""Figures of the embedding space: spectrum, hubs and 2-D map."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.reporting.figures.style import BLUE, INK, MUTED, ORANGE, VERMILION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMED = 14  # classes with a label on the map


def spectrum(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw the normalized singular values of the centered embeddings, largest first, and the effective rank."""
    axes = figure.add_subplot()
    space = report["space"]
    shares = 100 * np.asarray(space["spectrum"])
    axes.plot(np.arange(1, len(shares) + 1), shares, color=BLUE, linewidth=2)
    axes.fill_between(np.arange(1, len(shares) + 1), 0, shares, color=BLUE, alpha=0.12)
    axes.axvline(space["effective_rank"], color=ORANGE, linewidth=1.8, linestyle="--")
    right = space["effective_rank"] > 0.6 * len(shares)
    axes.annotate(
        f"effective rank {space['effective_rank']:.1f} of {space['dimension']}",
        (space["effective_rank"], 0.93),
        xycoords=("data", "axes fraction"),
        xytext=(-6 if right else 6, 0),
        textcoords="offset points",
        ha="right" if right else "left",
    )
    axes.set_xlim(1, max(2, len(shares)))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("direction, largest first")
    axes.set_ylabel("normalized singular value, %")


def hubs(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw the histogram of the k-occurrence of gallery images."""
    axes = figure.add_subplot()
    hubness = report["space"]["hubness"]
    starts = hubness["histogram"]["times"]
    names = [_span(low, high) for low, high in zip(starts, [*starts[1:], None], strict=True)]
    bars = axes.bar(names, hubness["histogram"]["items"], color=BLUE, alpha=0.45, edgecolor=BLUE)
    axes.bar_label(bars, fmt="{:,.0f}", fontsize=9, color=MUTED, padding=2)
    axes.margins(y=0.14)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel(f"occurrences among the {hubness['k']} nearest neighbours of all queries")
    axes.set_ylabel("gallery images")


def flat_map(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw the map: crosses are images whose nearest neighbor is of another class; large classes are labeled."""
    axes = figure.add_subplot()
    points = report["map"]
    x, y, labels = np.asarray(points["x"]), np.asarray(points["y"]), np.asarray(points["labels"])
    right = np.array([correct is not False for correct in points.get("right", [True] * len(x))])
    axes.scatter(x[right], y[right], s=9, color=BLUE, alpha=0.55, linewidths=0, label="nearest of the same class")
    axes.scatter(
        x[~right], y[~right], s=20, marker="x", color=VERMILION, linewidths=1.2, label="nearest of another class"
    )
    names, counts = np.unique(labels, return_counts=True)
    for name in names[np.argsort(-counts, kind="stable")][:_NAMED]:
        members = labels == name
        middle = np.median(x[members]), np.median(y[members])
        nearest = np.argmin((x[members] - middle[0]) ** 2 + (y[members] - middle[1]) ** 2)
        axes.annotate(
            name,
            (x[members][nearest], y[members][nearest]),
            ha="center",
            fontsize=8.5,
            color=INK,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "linewidth": 0},
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9.5)


def _span(low: int, high: int | None) -> str:
    if high is None:
        return f"{low}+" if low > 1 else str(low)
    return str(low) if high == low + 1 else f"{low}–{high - 1}"  # noqa: RUF001
