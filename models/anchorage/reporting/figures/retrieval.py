"""Figures of retrieval: recall by k and gallery size, and results by class."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.reporting.figures.style import BLUE, INK, ORANGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MANY = 1000  # classes above which dots are rasterized, to keep the page small
_LONGEST = 16  # characters of a class in the confusion matrix


def recall_curve(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw recall@k over k, on a logarithmic axis."""
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
    axes.set_xlabel("k, number of nearest neighbours")
    axes.set_ylabel("recall@k, %")
    axes.set_ylim(top=101)
    axes.legend(loc="lower right")


def class_dots(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw MAP@R of each class as a dot, lowest first; its area is the number of images."""
    axes = figure.add_subplot()
    classes = sorted(report["classes"], key=lambda entry: entry["map@r"])
    values = 100 * np.array([entry["map@r"] for entry in classes])
    images = np.array([entry["images"] for entry in classes], float)
    places = np.arange(1, len(classes) + 1)
    areas = 90 * images / images.max() + 6
    dots = [axes.scatter(places, values, s=areas, color=BLUE, alpha=0.75, linewidths=0, label="a class")]
    if all(entry.get("baseline") is not None for entry in classes):
        before, name = 100 * np.array([entry["baseline"] for entry in classes]), report["baseline"]["name"]
        label = f"same class in {name}"
        dots.append(axes.scatter(places, before, s=12, marker="x", linewidths=0.9, color=ORANGE, label=label))
    for collection in dots:
        collection.set_rasterized(len(classes) > _MANY)
    axes.axhline(values.mean(), color=INK, linewidth=1, linestyle=":")
    axes.annotate(
        f"mean of classes {values.mean():.1f} %", (1, values.mean()), xytext=(0, 4), textcoords="offset points"
    )
    axes.set_xlabel(f"{len(classes)} classes, worst first")
    axes.set_ylabel("MAP@R, %")
    axes.set_xlim(0, len(classes) + 1)
    axes.set_ylim(bottom=-2)
    axes.legend(loc="upper left", fontsize=9.5)


def growth_curve(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw the expected recall@1 over the number of irrelevant gallery images, on a logarithmic axis."""
    axes = figure.add_subplot()
    growth = report["growth"]
    items = np.maximum(1, growth["gallery"] * np.asarray(growth["wrong_items_kept"]))
    axes.plot(items, 100 * np.asarray(growth["recall@1"]), "-o", color=BLUE, linewidth=2, markersize=4)
    axes.plot(items[-1:], 100 * np.asarray(growth["recall@1"][-1:]), "s", color=ORANGE, markersize=8, zorder=3)
    axes.annotate(
        "gallery of this evaluation",
        (items[-1], 100 * growth["recall@1"][-1]),
        xytext=(-12, -2),
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=9.5,
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel("irrelevant images in the gallery (approximate)")
    axes.set_ylabel("recall@1, %")


def confusion(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw the confusion matrix of the hardest classes: class of the nearest image by class of the query."""
    import matplotlib as mpl

    axes = figure.add_subplot()
    matrix = report["confusion"]
    labels = [label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…" for label in matrix["labels"]]
    shares = np.asarray(matrix["shares"], float)
    image = axes.imshow(np.where(shares > 0, shares, np.nan) * 100, cmap=mpl.colormaps["cividis_r"], vmin=0, vmax=100)
    size = max(4.0, min(9.0, 230 / max(1, len(labels))))
    axes.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
    axes.set_yticks(range(len(labels)), labels, fontsize=size)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_xlabel("class of the nearest image")
    axes.set_ylabel("class of the query")
    bar = figure.colorbar(image, ax=axes, location="top", shrink=0.6, aspect=30)
    bar.set_label("% of the class's queries", fontsize=9.5)
    bar.outline.set_visible(False)


def class_sizes(figure: "Figure", report: Mapping[str, Any]) -> None:
    """Draw the histogram of the number of gallery images per class."""
    axes = figure.add_subplot()
    images = np.array([entry["images"] for entry in report["classes"]])
    least, most = int(images.min()), int(images.max())
    if most - least < 40:
        edges = np.arange(least, most + 2) - 0.5
    else:
        edges = np.geomspace(max(1, least), most + 1, 30)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.hist(images, edges.tolist(), color=BLUE, alpha=0.35, edgecolor=BLUE)
    axes.axvline(float(np.median(images)), color=INK, linewidth=1.2, linestyle=":")
    axes.annotate(
        f"median {np.median(images):g}",
        (float(np.median(images)), 0.94),
        xycoords=("data", "axes fraction"),
        xytext=(5, 0),
        textcoords="offset points",
        fontsize=9.5,
    )
    axes.set_xlabel("gallery images per class")
    axes.set_ylabel("classes")
    axes.locator_params(axis="y", integer=True)
