"""Forest plots: differences to the baseline by metric and slice, with confidence intervals."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from anchorage.judging.gate import metric_name
from anchorage.reporting.figures.style import BLUE, INK, MUTED, ORANGE, VERMILION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SLICES = 20  # largest number of slices, greatest losses first


def draw(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw one line per metric and slice: the mark is the difference, the bar its interval, the tick its margin."""
    axes = figure.add_subplot()
    compared = report["comparison"]
    metrics, slices = compared["metrics"], compared["slices"][:_SLICES]
    margins = {compared["primary"]: compared["margin"]}
    lines = [(metric_name(name), entry, margins.get(name)) for name, entry in metrics.items()]
    lines += [(entry["name"], entry, entry["margin"] if entry["judged"] else None) for entry in slices]
    for row, (_, entry, margin) in enumerate(lines):
        slice_ = row >= len(metrics)
        color, mark = (MUTED, "o") if slice_ else (BLUE, "s")
        if entry.get("worse") or (margin == compared["margin"] and not slice_ and compared["lower_bound"] < -margin):
            color, mark = VERMILION, "X"
        axes.plot([100 * entry["low"], 100 * entry["high"]], [row, row], color=color, linewidth=2)
        axes.plot(100 * entry["difference"], row, mark, color=color, markersize=6)
        if margin is not None:
            axes.plot(-100 * margin, row, "|", color=ORANGE, markersize=15, markeredgewidth=2.2)
    axes.axvline(0, color=INK, linewidth=1)
    axes.axhline(len(metrics) - 0.5, color=MUTED, linewidth=0.6, linestyle=":")
    axes.set_yticks(range(len(lines)), [f"{_short(name)}  ({entry['queries']:,})" for name, entry, _ in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"points better (right) or worse (left) than {report['baseline']['name']}")


def draw_untrained(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw one line per untrained baseline and headline metric; the primary metric has a square mark."""
    axes = figure.add_subplot()
    lines = [(entry, name) for entry in report["untrained"] for name in report["headline"]]
    for row, (entry, name) in enumerate(lines):
        values = entry["metrics"][name]
        color, mark = (BLUE, "s") if name == report["primary"] else (MUTED, "o")
        if name == report["primary"] and not entry["better"]:
            color, mark = VERMILION, "X"
        axes.plot([100 * values["low"], 100 * values["high"]], [row, row], color=color, linewidth=2)
        axes.plot(100 * values["difference"], row, mark, color=color, markersize=6)
    for row in range(len(report["headline"]), len(lines), len(report["headline"])):
        axes.axhline(row - 0.5, color=MUTED, linewidth=0.6, linestyle=":")
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(lines)), [f"{metric_name(name)}, {entry['name']}" for entry, name in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("points better (right) or worse (left)")


def height_untrained(report: Mapping[str, Any]) -> float:
    """Return the height in inches."""
    return 0.9 + 0.29 * len(report["untrained"]) * len(report["headline"])


def height(report: Mapping[str, Any]) -> float:
    """Return the height in inches."""
    lines = len(report["comparison"]["metrics"]) + len(report["comparison"]["slices"][:_SLICES])
    return 0.9 + 0.29 * lines


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:25]}…"
