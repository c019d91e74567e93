"""Figures of the index."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anchorage.reporting.figures.style import BLUE, MUTED, ORANGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def trade(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw the recall over the search time for several numbers of leaves, and mark the chosen one."""
    axes = figure.add_subplot()
    settings = report["index_trial"]["trade"]
    times, recalls = [entry["p50"] for entry in settings], [100 * entry["neighbor_recall"] for entry in settings]
    axes.plot(times, recalls, "-o", color=BLUE, linewidth=1.6, markersize=5)
    for time, recall, entry in zip(times, recalls, settings, strict=True):
        axes.annotate(
            f"{entry['leaves']:,}", (time, recall), xytext=(5, -11), textcoords="offset points", fontsize=9, color=MUTED
        )
        if entry["chosen"]:
            axes.plot(time, recall, "D", color=ORANGE, markersize=10, label=f"chosen: {entry['leaves']:,} leaves")
    axes.margins(0.1)
    axes.set_xlabel("median search time, ms")
    axes.set_ylabel("recall of true neighbours, %")
    axes.legend(loc="lower right")
