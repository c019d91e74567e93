"""Figures of the index: what was tried when it was built, and what it costs to search more of it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anchorage.reporting.figures.style import BLUE, MUTED, ORANGE
from anchorage.retrieval.index_tuning import fastest_by_recall

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


def trials(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw recall and time of all parameters that were tried, with the fastest for each recall as a line."""
    axes = figure.add_subplot()
    index = report["index_trial"]
    tried = [trial for trial in index["trials"] if trial["ms"] > 0]
    axes.scatter([1000 * trial["ms"] for trial in tried], [100 * trial["recall"] for trial in tried], s=10, color=MUTED)
    front = fastest_by_recall(tried)
    axes.plot(
        [1000 * trial["ms"] for trial in front],
        [100 * trial["recall"] for trial in front],
        "-",
        color=BLUE,
        drawstyle="steps-post",
        label="fastest for a recall",
    )
    chosen = [trial for trial in tried if all(trial[name] == value for name, value in index["chosen"].items())]
    if chosen:
        axes.plot(1000 * chosen[-1]["ms"], 100 * chosen[-1]["recall"], "D", color=ORANGE, label="chosen")
    axes.axhline(100 * index["min_recall"], color=MUTED, linewidth=0.8, linestyle="--", label="recall asked for")
    axes.set_xscale("log")
    axes.set_xlabel("CPU time per query, microseconds")
    axes.set_ylabel("recall of true neighbours, %")
    axes.legend(loc="lower right")
