"""The figures of the report, as PNG files and as SVG for the page."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anchorage.progress import track
from anchorage.reporting.figures import forest, index, pairs, retrieval, search, space, training
from anchorage.reporting.figures.style import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TASK = "drawing the figures"
_WIDTH, _HEIGHT = 5.4, 3.3  # inches: narrow enough that the text stays readable on a phone


class Drawing(NamedTuple):
    """A figure: the path of its data in the report, the function that draws it, and its height in inches."""

    needs: str
    draw: Callable[["Figure", Mapping[str, Any]], None]
    height: Callable[[Mapping[str, Any]], float] = lambda report: _HEIGHT


FIGURES = {
    "untrained": Drawing("untrained", forest.draw_untrained, forest.height_untrained),
    "forest": Drawing("comparison.metrics", forest.draw, forest.height),
    "training": Drawing("training.epochs", training.training_curve),
    "diagnostics": Drawing("training.epochs.0.effective_rank", training.diagnostics),
    "recall-curve": Drawing("recall_curve", retrieval.recall_curve),
    "growth": Drawing("growth", retrieval.growth_curve),
    "classes": Drawing("classes", retrieval.class_dots),
    "confusion": Drawing("confusion", retrieval.confusion, lambda report: _WIDTH),
    "similarities": Drawing("similarities", pairs.similarity_histogram),
    "roc": Drawing("verification", pairs.roc),
    "det": Drawing("verification", pairs.det),
    "reliability": Drawing("calibration.check", pairs.reliability, lambda report: 4.2),
    "risk-coverage": Drawing("calibration.check.risk_coverage", pairs.risk_coverage),
    "spectrum": Drawing("space", space.spectrum),
    "hubs": Drawing("space.hubness", space.hubs),
    "map": Drawing("map", space.flat_map, lambda report: _WIDTH),
    "index": Drawing("index_trial.trade", index.trade),
    "index-trials": Drawing("index_trial.trials", index.trials),
    "class-sizes": Drawing("classes", retrieval.class_sizes),
    "search-progress": Drawing("search.trials", search.progress, lambda report: 4.6),
    "search-settings": Drawing("search.settings", search.settings),
    "search-importance": Drawing("search.importance.settings", search.importance, search.height_importance),
}


def draw_figures(report: Mapping[str, Any], folder: Path) -> dict[str, bytes]:
    """Draw all figures whose data is in the report.

    Args:
        report: content of `report.json`.
        folder: existing folder for one `<name>.png` per figure.

    Returns:
        name -> SVG.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    images = {}
    drawings = {name: drawing for name, drawing in FIGURES.items() if find(report, drawing.needs)}
    with mpl.rc_context(STYLE):
        for name, drawing in track(drawings.items(), _TASK):
            figure = Figure(figsize=(_WIDTH, drawing.height(report)), layout="constrained")
            drawing.draw(figure, report)
            figure.savefig(folder / f"{name}.png", dpi=160, metadata={"Software": None})
            figure.set_layout_engine("none")  # the layout is computed; computing it again would double the time
            buffer = io.BytesIO()
            FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
            images[name] = buffer.getvalue()
    return images


def find(report: Mapping[str, Any], path: str) -> Any:
    """Return the value at a path of the report, such as `calibration.check` or `epochs.0.loss`, or None."""
    value: Any = report
    for key in path.split("."):
        if isinstance(value, list):
            value = dict(enumerate(value)).get(int(key))
        else:
            value = value.get(key) if isinstance(value, Mapping) else None
    return value
