"""The section of the report about a hyperparameter search, derived from its record."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from anchorage.judging.importance import measure_importance

_EPOCHS = "training.epochs"  # a value of each trial under Hyperband, which is no range


def describe_search(search: Mapping[str, Any]) -> dict[str, Any]:
    """Add to the record of a search what is derived from it.

    Args:
        search: content of `search.json`, see `anchorage.tuning.record.Search`.

    Returns:
        The record with `settings` (`path` and `name` of each column of the trials' values), `progress` (per trial in
        the order of their ends: `number`, `minutes` of the search so far and `best` score so far, None before the first
        score), `importance` as from `measure_importance`, and `lines`, the winner's values and steps as lines of an
        experiment file.
    """
    settings, ranges = _settings(search), {item["path"] for item in search["space"]}
    best = next((trial for trial in search["trials"] if trial["number"] == search["best"]), None)
    written = {path: value for path, value in best["values"].items() if path in ranges} if best else {}
    return {
        **search,
        "settings": settings,
        "progress": _progress(search["trials"]),
        "importance": measure_importance(search["trials"], [each["path"] for each in settings]),
        "lines": write_lines({**written, **search.get("steps", {})}),
    }


def write_lines(values: Mapping[str, Any]) -> list[str]:
    """Values by the path of their setting as lines of an experiment file.

    Example:
        >>> write_lines({"loss": "triplet", "loss.choices.1.params.margin": 0.25, "training.epochs": 9})
        ['loss.name = "triplet"', 'loss.params.margin = 0.25', 'training.epochs = 9']
    """
    components = {path.partition(".choices.")[0] for path in values if ".choices." in path}
    lines = []
    for path, value in values.items():
        if "/" in path:
            continue  # of the oracle's own
        is_component = path in components or path == "loss"
        key = re.sub(r"\.choices\.\d+", "", path) + (".name" if is_component else "")
        short = float(f"{value:.6g}") if isinstance(value, float) else value
        text = json.dumps(short, ensure_ascii=False)
        lines.append(f"{key} = {text}")
    return lines


def _settings(search: Mapping[str, Any]) -> list[dict[str, str]]:
    """The columns: the ranges, and the epochs if they differ from trial to trial; named briefly, but not alike."""
    conditions = {item["path"]: item.get("condition") for item in search["space"]}
    if _EPOCHS not in conditions and any(_EPOCHS in trial["values"] for trial in search["trials"]):
        conditions[_EPOCHS] = None
    brief = {path: path.rpartition(".")[2] for path in conditions}
    shared = Counter(brief.values())
    names = {}
    for path, condition in conditions.items():
        if shared[brief[path]] == 1:
            names[path] = brief[path]
        elif condition:
            names[path] = f"{brief[path]} of {condition['value']}"
        else:
            names[path] = re.sub(r"\.params\b", "", path)
    return [{"path": path, "name": names[path]} for path in conditions]


def _progress(trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The best score after each trial, by the time during which any trial ran: a search may be interrupted."""
    spans = sorted((trial["started"], trial["started"] + trial["seconds"]) for trial in trials)
    rows, best = [], None
    for trial in sorted(trials, key=lambda trial: trial["started"] + trial["seconds"]):
        end, covered, seconds = trial["started"] + trial["seconds"], float("-inf"), 0.0
        for start, stop in spans:
            seconds += max(0.0, min(stop, end) - max(start, covered))
            covered = max(covered, stop)
        if trial["score"] is not None and (best is None or trial["score"] > best):
            best = trial["score"]
        rows.append({"number": trial["number"], "minutes": seconds / 60, "best": best})
    return rows
