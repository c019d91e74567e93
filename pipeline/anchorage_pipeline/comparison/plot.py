"""Figures of a comparison: metrics, differences and cost; and the critical-difference diagram of the ranks."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from anchorage.reporting.figures.style import BLUE, INK, MUTED, ORANGE, STYLE, VERMILION
from anchorage_pipeline.comparison.ranking import Ranks
from anchorage_pipeline.comparison.results import Outcome, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW = 0.26  # inches


def draw_comparison(outcome: Outcome, folder: Path) -> list[Path]:
    """Write `comparison.png`, and `ranks.png` if there are ranks; returns the paths."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = [row for row in outcome.rows if row.good]
    if not rows:
        return []
    written = [folder / "comparison.png"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 1.4 + _ROW * len(rows)), layout="constrained")
        left, middle, right = figure.subplots(1, 3, sharey=True, width_ratios=[3, 3, 2])
        _values(left, rows, outcome.comparison.primary)
        _differences(middle, rows, outcome.comparison.primary)
        _cost(right, rows)
        left.set_yticks(range(len(rows)), [row.label for row in rows], color=INK)
        left.set_ylim(len(rows) - 0.5, -0.5)
        figure.savefig(written[0], dpi=130, metadata={"Software": None})
        if outcome.ranks is not None:
            written.append(folder / "ranks.png")
            figure = Figure(figsize=(11, 1.6 + 0.13 * len(outcome.ranked) + 0.1 * len(outcome.ranks.groups)))
            _rank_diagram(figure.add_axes((0, 0, 1, 1)), outcome, outcome.ranks)
            figure.savefig(written[1], dpi=130, metadata={"Software": None})
    return written


def _values(axes: "Axes", rows: list[Row], metric: str) -> None:
    for y, row in enumerate(rows):
        runs = [100 * record["values"][metric] for record in row.good.values()]
        axes.plot(runs, [y] * len(runs), "o", color=BLUE, alpha=0.3, markersize=4, markeredgewidth=0)
        mean, error, _ = row.values[metric]
        axes.errorbar(100 * mean, y, xerr=_finite(100 * error), fmt="D", color=INK, markersize=4, elinewidth=2)
    axes.set_xlabel(f"{metric}, %: mean ± standard error, and single runs")


def _differences(axes: "Axes", rows: list[Row], metric: str) -> None:
    axes.axvline(0, color=INK, linewidth=1)
    for y, row in enumerate(rows):
        difference = row.differences.get(metric)
        if difference is None:
            continue
        style = (BLUE, "^") if difference.mean > 0 else (VERMILION, "v")
        color, marker = style if difference.measured else (MUTED, "o")
        mean, error = 100 * difference.mean, _finite(100 * difference.error)
        half_width = 100 * (difference.high - difference.mean)
        if math.isfinite(half_width):
            axes.errorbar(mean, y, xerr=half_width, fmt="none", color=color, elinewidth=1)
        axes.errorbar(mean, y, xerr=error, fmt=marker, color=color, markersize=6, elinewidth=3)
    axes.set_xlabel("difference to the compared entry, points:\nstandard error (thick), 95 % interval (thin)")


def _cost(axes: "Axes", rows: list[Row]) -> None:
    axes.barh(range(len(rows)), [row.seconds for row in rows], color=ORANGE, alpha=0.6, height=0.6)
    for y, row in enumerate(rows):
        if not math.isnan(row.time_ratio):
            axes.annotate(f" {row.time_ratio:.2f} x", (row.seconds, y), va="center", fontsize=8.5, color=MUTED)
    axes.set_xlabel("CPU seconds per run,\nand ratio to the compared entry")


def _finite(error: float) -> float:
    return 0.0 if math.isnan(error) else error


def _rank_diagram(axes: "Axes", outcome: Outcome, ranks: Ranks) -> None:
    """Mean ranks on an axis, names on both sides, and bars that join groups without a significant difference."""
    count = len(outcome.ranked)
    order = sorted(range(count), key=lambda index: ranks.means[index])
    half = (count + 1) // 2
    top, step, bar = 0.0, 1.0, 0.55
    first = bar * (len(ranks.groups) + 1.5)
    axes.set_xlim(1 - 0.45 * count, count + 0.45 * count)
    axes.set_ylim(first + step * half + 1, -4.5)
    axes.axis("off")
    axes.plot([1, count], [top, top], color=INK, linewidth=1.5)
    ticks = [rank for rank in range(1, count + 1) if count <= 15 or rank == 1 or rank % 5 == 0]
    for rank in ticks:
        axes.plot([rank, rank], [top, top - 0.4], color=INK, linewidth=1)
        axes.text(rank, top - 0.6, str(rank), ha="center", va="bottom", color=MUTED)
    width = min(ranks.critical_difference, count - 1)
    axes.plot([1, 1 + width], [-2.9, -2.9], "|-", color=ORANGE, linewidth=2)
    text = f"critical difference {ranks.critical_difference:.1f} ranks, {ranks.units} units"
    axes.text(1, -3.2, text, va="bottom", color=INK)
    for number, group in enumerate(ranks.groups, 1):
        ends = [ranks.means[group[0]] - 0.05, ranks.means[group[-1]] + 0.05]
        axes.plot(ends, [bar * number] * 2, color=ORANGE, linewidth=3, solid_capstyle="round")
    for position, index in enumerate(order):
        left = position < half
        height = first + step * (position if left else count - 1 - position)
        edge = 1 - 0.03 * count if left else count + 0.03 * count
        axes.plot([ranks.means[index]] * 2 + [edge], [top, height, height], color=BLUE, linewidth=0.9)
        text = f"{outcome.row(outcome.ranked[index]).label}  {ranks.means[index]:.1f}"
        axes.text(edge, height, f" {text} ", ha="right" if left else "left", va="center", fontsize=9)
