"""Writes a retrieval report: `report.json` (all numbers), `report.html` (one file, no network), a summary, PNGs."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from anchorage.reporting.figures import draw_figures, find
from anchorage.reporting.page import Pictures, render_page
from anchorage.reporting.pictures import Answered, Neighbor, draw_sheet
from anchorage.reporting.summary import summarize


def write_report(
    report: Mapping[str, Any], folder: str | Path, read_pictures: Callable[[Sequence[str]], Pictures]
) -> None:
    """Writes the whole report into `folder`.

    Args:
        report: the numbers, as `build_report` gives them; JSON-ready.
        folder: gets `report.json`, `report.html`, `summary.md`, `figures/`
            and `neighbors/`; made if absent.
        read_pictures: image ids -> RGB uint8 pictures, None for a missing one.
    """
    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    (folder / "neighbors").mkdir(exist_ok=True)
    pictures = read_pictures(_shown_ids(report))
    figures = draw_figures(report, folder / "figures")
    for name, queries in _shown_queries(report).items():
        if queries:
            draw_sheet([_answered(query, pictures) for query in queries], folder / "neighbors" / f"{name}.png")
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "report.json").write_text(text, encoding="utf-8")
    (folder / "summary.md").write_text(summarize(report), encoding="utf-8")
    (folder / "report.html").write_text(render_page(report, figures, pictures), encoding="utf-8")


def _shown_queries(report: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {**report.get("galleries", {}), **report.get("changed", {})}


def _shown_ids(report: Mapping[str, Any]) -> list[str]:
    """Ids of all pictures on the page."""
    queries = [query for shown in _shown_queries(report).values() for query in shown]
    answers = [answer for query in queries for answer in (query, query.get("before")) if answer]
    ids = [query["id"] for query in queries] + [near["id"] for answer in answers for near in answer["neighbors"]]
    for pair in report.get("confused_pairs", []):
        ids += [example[side] for example in pair["examples"] for side in ("query", "neighbor")]
    ids += [hub["id"] for hub in (find(report, "space.hubness.hubs") or [])]
    return sorted(set(ids))


def _answered(query: Mapping[str, Any], pictures: Pictures) -> Answered:
    near = [Neighbor(n["label"], n["similarity"], n["correct"], pictures.get(n["id"])) for n in query["neighbors"]]
    return Answered(query["label"], f"MAP@R {100 * query['map@r']:.1f} %", pictures.get(query["id"]), near)
