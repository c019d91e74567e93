"""Figures of the index."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anchorage.reporting.figures.style import BLUE, MUTED, ORANGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def trade(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Recall against the time of a search, for several numbers of leaves; the chosen one is marked."""
    axes = figure.add_subplot()
    tried = report["index_trial"]["trade"]
    times, recalls = [entry["p50"] for entry in tried], [100 * entry["neighbor_recall"] for entry in tried]
    axes.plot(times, recalls, "-o", color=BLUE, linewidth=1.6, markersize=5)
    for time, recall, entry in zip(times, recalls, tried, strict=True):
        axes.annotate(
            f"{entry['leaves']:,}", (time, recall), xytext=(5, -11), textcoords="offset points", fontsize=9, color=MUTED
        )
        if entry["chosen"]:
            axes.plot(time, recall, "D", color=ORANGE, markersize=10, label=f"chosen: {entry['leaves']:,} leaves")
    axes.margins(0.1)
    axes.set_xlabel("half of the searches take less than, ms")
    axes.set_ylabel("true neighbours found, %")
    axes.legend(loc="lower right")
