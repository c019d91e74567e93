"""Writing of a drift report: `drift.json`, and `drift.html` with all figures in it."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anchorage.reporting.figures import drift as figures
from anchorage.reporting.figures.style import STYLE
from anchorage.reporting.page import describe, embed_figure

PAGE, DOCUMENT = "drift.html", "drift.json"

_FIGURES = {
    "chart": (figures.control_chart, 3.8),
    "distances": (figures.distances, 3.2),
    "hubs": (figures.hubs, 3.8),
    "map": (figures.flat_map, 4.4),
}
_WIDTH = 5.4  # inches


def write_drift(report: Mapping[str, Any], folder: str | Path) -> Path:
    """Write the report to `folder`, which is created if missing; return the path of the page."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / DOCUMENT).write_text(text, encoding="utf-8")
    (folder / PAGE).write_text(_render(report), encoding="utf-8")
    return folder / PAGE


def _render(report: Mapping[str, Any]) -> str:
    import jinja2
    from markupsafe import Markup

    templates = Path(__file__).parent / "page"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"describe": describe, "percent": _percent}
    return environment.get_template("drift.html.j2").render(
        report=report,
        figures={name: embed_figure(_draw(*drawing, report)) for name, drawing in _FIGURES.items()},
        style=Markup((templates / "style.css").read_text(encoding="utf-8")),
    )


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{100 * share:.1f} %"


def _draw(draw: Any, height: float, report: Mapping[str, Any]) -> bytes:
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure, report)
        buffer = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return buffer.getvalue()
