"""Writing of the report: `report.json`, a self-contained `report.html`, a summary, and PNG figures."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from anchorage.reporting.figures import draw_figures
from anchorage.reporting.page import Pictures, render_page, render_search
from anchorage.reporting.pictures import Answered, Neighbor, draw_sheet
from anchorage.reporting.shown import explored_ids, static_ids, static_queries
from anchorage.reporting.summary import summarize


def write_report(
    report: Mapping[str, Any], folder: str | Path, read_pictures: Callable[[Sequence[str]], Pictures]
) -> None:
    """Write the report to `folder`.

    Args:
        report: JSON-ready report from `judge_candidate`.
        folder: folder for `report.json`, `report.html`, `summary.md`,
            `figures/` and `neighbors/`; created if missing.
        read_pictures: function from image ids to RGB uint8 images, None for
            missing ones.
    """
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    (folder / "neighbors").mkdir(exist_ok=True)
    pictures = read_pictures(sorted({*static_ids(report), *explored_ids(report)}))
    figures = draw_figures(report, folder / "figures")
    for name, queries in static_queries(report).items():
        if queries:
            draw_sheet([_answered(query, pictures) for query in queries], folder / "neighbors" / f"{name}.png")
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(text, encoding="utf-8")
    (folder / "summary.md").write_text(summarize(report), encoding="utf-8")
    (folder / "report.html").write_text(render_page(report, figures, pictures), encoding="utf-8")


def write_search_page(search: Mapping[str, Any], experiment: str, path: str | Path) -> None:
    """Write the page of a hyperparameter search.

    Args:
        search: what `anchorage.judging.searched.describe_search` returns.
        experiment: name of the experiment.
        path: the HTML file; its folder must exist.
    """
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    report = {"experiment": experiment, "created": created, "search": search}
    with TemporaryDirectory() as folder:
        figures = draw_figures(report, Path(folder))
    Path(path).write_text(render_search(report, figures), encoding="utf-8")


def _answered(query: Mapping[str, Any], pictures: Pictures) -> Answered:
    near = [Neighbor(n["label"], n["similarity"], n["correct"], pictures.get(n["id"])) for n in query["neighbors"]]
    return Answered(query["label"], f"MAP@R {100 * query['map@r']:.1f} %", pictures.get(query["id"]), near)
