"""Figures of a hyperparameter search."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.judging.gate import metric_name
from anchorage.reporting.figures.style import BLUE, INK, MUTED, ORANGE, VERMILION

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MISSING = -0.1  # height of a setting that a trial does not have


def progress(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw the trials and the best score so far, by trial (top) and by minutes (bottom)."""
    search = report["search"]
    rows = search["progress"]
    trials = {trial["number"]: trial for trial in search["trials"]}
    name = metric_name(search["objective"])
    upper, lower = figure.subplots(2, 1)
    for axes, places, label in (
        (upper, list(range(1, len(rows) + 1)), "trials that ended"),
        (lower, [row["minutes"] for row in rows], "minutes"),
    ):
        ended = [trials[row["number"]] for row in rows]
        _marks(axes, places, ended)
        best = [np.nan if row["best"] is None else 100 * row["best"] for row in rows]
        axes.step(places, best, where="post", color=BLUE, linewidth=2, label="best so far")
        axes.set_xlabel(label)
        axes.set_ylabel(f"{name}, %")
    upper.xaxis.get_major_locator().set_params(integer=True)
    lower.set_xlim(left=0)
    figure.legend(*upper.get_legend_handles_labels(), loc="outside upper center", fontsize=9, ncols=4)


def _marks(axes: "Axes", places: Sequence[float], trials: Sequence[Mapping[str, Any]]) -> None:
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        ("completed", {"marker": "o", "color": MUTED, "markersize": 4.5}),
        ("stopped", {"marker": "v", "color": MUTED, "markersize": 5, "markerfacecolor": "none"}),
        ("failed", {"marker": "x", "color": VERMILION, "markersize": 6}),
    )
    scores = [trial["score"] for trial in trials if trial["score"] is not None]
    floor = 100 * min(scores, default=0.0)
    for state, style in kinds:
        chosen = [(place, trial) for place, trial in zip(places, trials, strict=True) if trial["state"] == state]
        heights = [floor if trial["score"] is None else 100 * trial["score"] for _, trial in chosen]
        if chosen:
            axes.plot([place for place, _ in chosen], heights, linestyle="none", label=state, **style)


def settings(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw each trial with a score as a line across its settings, ending at its score; the best one thick."""
    search = report["search"]
    scored = [trial for trial in search["trials"] if trial["score"] is not None]
    axes = figure.subplots()
    columns, labels, ends = [], [], []
    for setting in search["settings"]:
        item = next((item for item in search["space"] if item["path"] == setting["path"]), None)
        heights, low, high = _scale([trial["values"].get(setting["path"]) for trial in scored], item)
        columns.append(heights)
        labels.append(setting["name"])
        ends.append((low, high))
    scores = np.array([trial["score"] for trial in scored])
    span = np.ptp(scores)
    columns.append((scores - scores.min()) / span if span else np.full(len(scores), 0.5))
    labels.append(metric_name(search["objective"]))
    ends.append((f"{100 * scores.min():.1f} %", f"{100 * scores.max():.1f} %"))
    heights = np.stack(columns, axis=1)
    for row, trial in enumerate(scored):
        best = trial["number"] == search["best"]
        style: dict[str, Any] = {"color": ORANGE, "linewidth": 2.6, "marker": "D", "zorder": 3} if best else {}
        plain: dict[str, Any] = {"color": BLUE, "linewidth": 1, "alpha": 0.45, "marker": "."}
        axes.plot(heights[row], **{**plain, **style})
    for at, (low, high) in enumerate(ends):
        axes.axvline(at, color=MUTED, linewidth=0.8, zorder=0)
        axes.text(at, -0.14, low, ha="center", va="top", fontsize=8, color=MUTED)
        axes.text(at, 1.05, high, ha="center", va="bottom", fontsize=8, color=MUTED)
    axes.set_xticks(range(len(labels)), labels, rotation=15, fontsize=9)
    axes.set_yticks([])
    axes.set_ylim(-0.24, 1.14)
    axes.grid(visible=False)


def importance(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw the importance of each setting, with the spread over the shuffles."""
    search = report["search"]
    names = {setting["path"]: setting["name"] for setting in search["settings"]}
    rows = search["importance"]["settings"][::-1]
    axes = figure.subplots()
    values = [row["importance"] for row in rows]
    axes.barh(range(len(rows)), values, color=BLUE, height=0.6)
    for at, row in enumerate(rows):
        axes.plot([row["low"], row["high"]], [at, at], color=INK, linewidth=1.4)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [names[row["path"]] for row in rows])
    axes.set_xlabel("loss of R² when the setting is shuffled")
    axes.grid(visible=False, axis="y")


def height_importance(report: Mapping[str, Any]) -> float:
    """Height of the figure of importances in inches."""
    return 1.1 + 0.36 * len(report["search"]["importance"]["settings"])


def _scale(values: Sequence[Any], item: Mapping[str, Any] | None) -> tuple[np.ndarray, str, str]:
    """Heights in [0, 1] on the scale of a range, `_MISSING` for a missing value, and the texts of both ends."""
    given = [value for value in values if value is not None]
    choices = (item or {}).get("choices")
    if choices or not all(isinstance(value, int | float) for value in given):
        order = list(choices or sorted(set(given), key=str))
        share = {value: place / max(1, len(order) - 1) for place, value in enumerate(order)}
        places = [_MISSING if value is None else share[value] for value in values]
        return np.array(places, float), str(order[0]), str(order[-1])
    low, high = (item["low"], item["high"]) if item else (min(given), max(given))
    is_log = item is not None and item["sampling"] == "log"
    ends = np.log([low, high]) if is_log else np.array([low, high], float)
    numbers = np.array([np.nan if value is None else value for value in values], float)
    numbers = (np.log(numbers) if is_log else numbers) - ends[0]
    heights = numbers / (ends[1] - ends[0]) if ends[1] > ends[0] else np.where(np.isnan(numbers), np.nan, 0.5)
    return np.nan_to_num(heights, nan=_MISSING), f"{low:g}", f"{high:g}"
