"""The report's figures, drawn from its numbers: PNG files for people and CI, SVG for the page."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito's palette: told apart with every common kind of colour blindness. Each line also has its own dash or mark.
INK, MUTED, RULE = "#1d2733", "#5b6775", "#d5dbe2"
BLUE, GREEN, VERMILION, ORANGE = "#0072b2", "#009e73", "#d55e00", "#e69f00"

STYLE: dict[Any, Any] = {
    "font.size": 10.5,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8ecf0",
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
    "svg.hashsalt": "anchorage",  # the same numbers give the same bytes
}
_SIZE = (5.4, 3.3)  # inches: narrow enough that the text stays readable on a phone


def draw_figures(report: Mapping[str, Any], folder: Path) -> dict[str, bytes]:
    """Draws each figure whose numbers are in the report.

    Args:
        report: what `report.json` holds.
        folder: gets `<name>.png` per figure; must exist.

    Returns:
        name -> SVG.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    drawn = {}
    with mpl.rc_context(STYLE):
        for name, (needed, draw) in _FIGURES.items():
            if not report.get(needed):
                continue
            figure = Figure(figsize=_SIZE, layout="constrained")
            draw(figure, report)
            figure.savefig(folder / f"{name}.png", dpi=160, metadata={"Software": None})
            figure.set_layout_engine("none")  # the places are found; to find them again would double the work
            buffer = io.BytesIO()
            FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
            drawn[name] = buffer.getvalue()
    return drawn


def recall_curve(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Recall at every k up to the size of the gallery, k on a log axis."""
    axes = figure.add_subplot()
    curve = report["recall_curve"]
    lines = [("candidate", "this model", BLUE, "-", "o")]
    if curve.get("baseline"):
        lines.append(("baseline", report["baseline"]["name"], ORANGE, "--", "s"))
    for key, name, color, line, mark in lines:
        percent = 100 * np.asarray(curve[key])
        axes.plot(curve["k"], percent, line, color=color, linewidth=2, label=name)
        axes.plot(curve["k"][:1], percent[:1], mark, color=color, clip_on=False, zorder=3)
    axes.set_xscale("log")
    axes.set_xlim(1, max(2, curve["k"][-1]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("k: how many neighbours one looks at")
    axes.set_ylabel("recall@k, %")
    axes.set_ylim(top=101)
    axes.legend(loc="lower right")


def similarity_histogram(figure: "Figure", report: Mapping[str, Any]) -> None:
    """How near the right answers are, and how near the nearest wrong one is."""
    axes = figure.add_subplot()
    shown = report["similarities"]
    edges = np.asarray(shown["edges"])
    right, wrong = (_density(shown[side]) for side in ("positive", "hardest_negative"))
    axes.stairs(right, edges, fill=True, color=GREEN, alpha=0.30)
    axes.stairs(right, edges, color=GREEN, linewidth=1.8, label="pairs of one class")
    axes.stairs(wrong, edges, fill=True, color=VERMILION, alpha=0.18, hatch="///")
    axes.stairs(wrong, edges, color=VERMILION, linewidth=1.8, linestyle="--", label="nearest wrong item of a query")
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
    used = np.flatnonzero((right + wrong) > 0.001 * top)
    if len(used):
        axes.set_xlim(edges[used[0]] - 0.02, min(1.0, edges[used[-1] + 1] + 0.02))
    axes.set_ylim(0, top * 1.30)
    axes.set_yticks([])
    axes.set_xlabel("cosine similarity (right is nearer)")
    axes.legend(loc="upper left", fontsize=9.5)


def class_dots(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Every class as a dot, worst at the left; the area is its number of images."""
    axes = figure.add_subplot()
    classes = sorted(report["classes"], key=lambda entry: entry["map@r"])
    values = 100 * np.array([entry["map@r"] for entry in classes])
    images = np.array([entry["images"] for entry in classes], float)
    places = np.arange(1, len(classes) + 1)
    if all(entry.get("baseline") is not None for entry in classes):
        before = 100 * np.array([entry["baseline"] for entry in classes])
        name = report["baseline"]["name"]
        axes.scatter(places, before, s=12, marker="x", linewidths=0.9, color=ORANGE, label=f"same class in {name}")
    axes.scatter(
        places, values, s=90 * images / images.max() + 6, color=BLUE, alpha=0.75, linewidths=0, label="a class"
    )
    axes.axhline(values.mean(), color=INK, linewidth=1, linestyle=":")
    axes.annotate(
        f"mean of classes {values.mean():.1f} %", (1, values.mean()), xytext=(0, 4), textcoords="offset points"
    )
    axes.set_xlabel(f"{len(classes)} classes, worst first")
    axes.set_ylabel("MAP@R, %")
    axes.set_xlim(0, len(classes) + 1)
    axes.set_ylim(bottom=-2)
    axes.legend(loc="upper left", fontsize=9.5)


def training_curve(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Validation metrics above, training loss below, by epoch."""
    history = report["training"]
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    lines = [("val_map@r", "MAP@R", BLUE, "-"), ("val_recall@1", "recall@1", GREEN, "--")]
    for key, name, color, line in lines:
        values = [row.get(key) for row in history["epochs"]]
        if any(value is not None for value in values):
            percent = [np.nan if value is None else 100 * value for value in values]
            upper.plot(range(1, len(values) + 1), percent, line, marker=".", color=color, linewidth=1.8, label=name)
    losses = [row.get("loss", np.nan) for row in history["epochs"]]
    lower.plot(range(1, len(losses) + 1), losses, color=MUTED, linewidth=1.8, marker=".")
    for axes in (upper, lower):
        axes.axvline(history["best_epoch"], color=INK, linewidth=1.2, linestyle=":")
    if upper.lines[:-1]:
        upper.legend(loc="lower right", fontsize=9.5)
    upper.set_ylabel("validation, %")
    lower.set_ylabel("loss")
    lower.set_xlabel("epoch")
    lower.xaxis.get_major_locator().set_params(integer=True)


_FIGURES: dict[str, tuple[str, Callable[["Figure", Mapping[str, Any]], None]]] = {
    "training": ("training", training_curve),
    "recall-curve": ("recall_curve", recall_curve),
    "similarities": ("similarities", similarity_histogram),
    "classes": ("classes", class_dots),
}


def _density(counts) -> np.ndarray:
    counts = np.asarray(counts, float)
    return counts / max(1.0, counts.sum())
