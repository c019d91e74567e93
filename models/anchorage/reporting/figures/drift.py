"""Figures of a drift report: control chart, distances, items found, and a map."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.reporting.figures.style import BLUE, GREEN, MUTED, ORANGE, VERMILION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLES = {"distance": (BLUE, "o"), "embedding": (GREEN, "s"), "hubs": (ORANGE, "^"), "unknown": (VERMILION, "D")}
_TOP = 30.0  # scores above are drawn here


def control_chart(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw the score of each test over the windows, and the control limit."""
    from matplotlib.ticker import MaxNLocator

    axes = figure.add_subplot()
    windows = report["windows"]
    numbers = [window["number"] for window in windows]
    for name, title in report["tests"].items():
        color, marker = _STYLES[name]
        scores = np.minimum([window["scores"][name] for window in windows], _TOP)
        axes.plot(numbers, scores, color=color, marker=marker, markersize=4.5, linewidth=1.2, label=title)
    limits = [window["limit"] for window in windows]
    axes.plot(numbers, limits, color=MUTED, linestyle="--", marker="_", markersize=16, linewidth=1.6, label="limit")
    axes.set_xlabel("window, newest last")
    axes.set_ylabel("score")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)


def distances(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw the distribution of the distance of the nearest item, of the reference and of the newest window."""
    axes = figure.add_subplot()
    histogram = report["histogram"]
    edges = np.asarray(histogram["edges"])
    axes.stairs(100 * np.asarray(histogram["reference"]), edges, color=BLUE, fill=True, alpha=0.3, label="reference")
    axes.stairs(100 * np.asarray(histogram["window"]), edges, color=VERMILION, linewidth=1.8, label="newest window")
    axes.set_xlabel("cosine distance of the nearest item")
    axes.set_ylabel("queries, %")
    axes.legend()


def hubs(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw the gallery items that are found more or less often than in the reference."""
    axes = figure.add_subplot()
    rows = report["hubs"][::-1]
    places = np.arange(len(rows))
    axes.barh(places + 0.2, [100 * row["reference"] for row in rows], 0.38, color=BLUE, alpha=0.5, label="reference")
    axes.barh(places - 0.2, [100 * row["window"] for row in rows], 0.38, color=VERMILION, label="newest window")
    axes.set_yticks(places, [f"{row['label']}: {row['id'][-28:]}" for row in rows], fontsize=8)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("queries that find the item, %")
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)


def flat_map(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw queries of the reference and of the newest window on the first two principal components."""
    axes = figure.add_subplot()
    for name, title, color in (("reference", "reference", BLUE), ("window", "newest window", VERMILION)):
        x, y = np.asarray(report["map"][name]).reshape(-1, 2).T
        axes.scatter(x, y, s=10, color=color, alpha=0.5, linewidths=0, label=title)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.legend()
