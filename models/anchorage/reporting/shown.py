"""The images that a report shows."""

from collections.abc import Mapping
from typing import Any

from anchorage.reporting.figures import find

_EXPLORED = 2_000  # largest number of images in the interactive sections


def static_queries(report: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the queries of each gallery, by name."""
    return {**report.get("galleries", {}), **report.get("changed", {})}


def static_ids(report: Mapping[str, Any]) -> set[str]:
    """Return the ids of the images in galleries, confused pairs and hubs."""
    queries = [query for shown in static_queries(report).values() for query in shown]
    answers = [answer for query in queries for answer in (query, query.get("before")) if answer]
    ids = [query["id"] for query in queries] + [near["id"] for answer in answers for near in answer["neighbors"]]
    for pair in report.get("confused_pairs", []):
        ids += [example[side] for example in pair["examples"] for side in ("query", "neighbor")]
    return {*ids, *(hub["id"] for hub in (find(report, "space.hubness.hubs") or []))}


def explored_ids(report: Mapping[str, Any]) -> list[str]:
    """Return the ids of the images for the interactive sections, those on the map first."""
    ids = dict.fromkeys([*report.get("map", {}).get("ids", []), *report.get("explorer", {}).get("ids", [])])
    return list(ids)[:_EXPLORED]
