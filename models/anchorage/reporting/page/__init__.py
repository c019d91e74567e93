"""The report as a single HTML page, with styles, figures, thumbnails and data embedded."""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from anchorage.judging.gate import metric_name, points
from anchorage.judging.numbers import ROUND
from anchorage.registry import format_value
from anchorage.reporting.figures import find
from anchorage.reporting.page.tables import csv_tables
from anchorage.reporting.pictures import draw_atlas, thumbnail
from anchorage.reporting.shown import explored_ids, static_ids

if TYPE_CHECKING:
    from jinja2 import Environment

Pictures = Mapping[str, np.ndarray | None]

_TEMPLATES = Path(__file__).parent
CAP = 15_000_000  # bytes of a page
_SIDES = ((96, 56), (64, 44), (40, 32), (40, 0), (0, 0))  # of thumbnails and atlas: the first that keep the cap


class Section(NamedTuple):
    """A section of the page: name of its template, heading, path of its data in the report, and text if missing."""

    name: str
    title: str
    needs: str
    missing: str


# In reading order. A new section is one line here and one template.
SECTIONS = (
    Section("identity", "Model card", "identity", "no facts about model and data."),
    Section("training", "Training", "training.epochs", "nothing was trained."),
    Section("untrained", "Untrained baselines", "untrained", "no untrained baselines."),
    Section("forest", "Comparison with the current release", "comparison.metrics", "no earlier release."),
    Section("metrics", "Metrics", "metrics", "no metrics."),
    Section("curve", "Recall by rank", "recall_curve", "no query has a relevant image in the gallery."),
    Section("classes", "Results by class", "classes", "no classes among the queries."),
    Section("galleries", "Nearest neighbours", "galleries", "no pictures or neighbours."),
    Section("confused", "Confused classes", "confused_pairs", "no query has a wrong nearest neighbour."),
    Section("similarities", "Similarity distributions", "similarities", "no pairs to compare."),
    Section("verification", "Verification", "verification", "no pairs of both kinds."),
    Section("calibration", "Match probability", "calibration.check", "the validation classes were too few to fit one."),
    Section("space", "Embedding space", "space", "not measured."),
    Section("map", "Map", "map", "a map needs at least 50 images."),
    Section("explorer", "Find a class or an image", "explorer", "no neighbours."),
    Section("compatibility", "Backward compatibility", "compatibility", "no earlier model to mix with."),
    Section("index", "Index", "index", "no index was built for this model."),
    Section("audit", "Data", "classes", "no classes among the queries."),
    Section("search", "Hyperparameter search", "search", "all settings were fixed; nothing was searched."),
    Section("reproduce", "Reproduce", "reproduce", "no record of how this model was made."),
)


def render_page(report: Mapping[str, Any], figures: Mapping[str, bytes], pictures: Pictures, cap: int = CAP) -> str:
    """Render the page as HTML.

    Images are made smaller, and at last omitted, to keep the page below `cap` bytes.
    """
    from markupsafe import Markup

    environment = _environment(report, figures)
    template = environment.get_template("report.html.j2")
    sections = [
        {"name": s.name, "title": s.title, "missing": "" if find(report, s.needs) else s.missing} for s in SECTIONS
    ]
    text = ""
    explored = {id_: picture for id_ in explored_ids(report) if (picture := pictures.get(id_)) is not None}
    listed = {id_: picture for id_ in sorted(static_ids(report)) if (picture := pictures.get(id_)) is not None}
    for side, tile in _SIDES:
        thumbnails = {id_: thumbnail(picture, side) for id_, picture in listed.items() if side}
        text = template.render(
            report=report,
            sections=sections,
            pictures=thumbnails,
            omitted=not side,
            curve_rows=[at for at, k in enumerate(report.get("recall_curve", {}).get("k", [])) if k in ROUND],
            style=Markup(_read("style.css")),
            scripts=[Markup(_read(name)) for name in ("explorer.js", "search.js")],
            embedded=_embedded(report),
            atlas=_embedded(draw_atlas(explored if tile else {}, tile or 1)._asdict()),
        )
        if len(text.encode()) <= cap:
            break
    return text


def render_search(report: Mapping[str, Any], figures: Mapping[str, bytes]) -> str:
    """Render the page of a hyperparameter search alone as HTML: the section of the report, without the report."""
    from markupsafe import Markup

    return (
        _environment(report, figures)
        .get_template("search_page.html.j2")
        .render(
            report=report,
            style=Markup(_read("style.css")),
            script=Markup(_read("search.js")),
            embedded=_embedded(report),
        )
    )


def _environment(report: Mapping[str, Any], figures: Mapping[str, bytes]) -> "Environment":
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": lambda share: f"{100 * share:.1f} %",
        "points": points,
        "count": lambda number: f"{number:,}",
        "metric_name": metric_name,
        "describe": describe,
        "setting": format_value,
    }
    environment.globals["figures"] = {name: embed_figure(svg) for name, svg in figures.items()}
    environment.globals["csv"] = {
        name: _data_uri(text, "text/csv;charset=utf-8") for name, text in csv_tables(report).items()
    }
    return environment


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _embedded(value: Any) -> str:
    """Encode a value as JSON that is safe inside an element of the page."""
    from markupsafe import Markup

    return Markup(json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))


def describe(value: Any) -> str:
    """Format a value of the report as text; nested values as `name = value`."""
    if isinstance(value, Mapping):
        parts = [f"{name} = {describe(inner)}" for name, inner in value.items() if inner not in (None, "", {}, [])]
        return " · ".join(parts) or "none"
    if isinstance(value, (list, tuple)):
        shown = ", ".join(describe(inner) for inner in value[:20])
        return f"{shown}, and {len(value) - 20} more" if len(value) > 20 else shown or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{40,}", value):
        return f"{value[:16]}…"  # a digest
    return "unknown" if value is None else str(value)


def embed_figure(svg: bytes) -> dict[str, Any]:
    """Return a figure for the page, with its size, so that the layout does not shift while it loads."""
    box = re.search(rb'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', svg)
    width, height = (float(side) for side in box.groups()) if box else (389.0, 238.0)
    return {"uri": _data_uri(svg, "image/svg+xml"), "width": 620, "height": round(620 * height / width)}


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
