"""The data of each figure as CSV, for download from the page."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from anchorage.reporting.figures import find

Table = Iterable[Sequence[Any]]


def csv_tables(report: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the CSV of all figures whose data is in the report, by name."""
    tables = {}
    for name, (needs, rows) in _TABLES.items():
        if find(report, needs):
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(rows(report))
            tables[name] = text.getvalue().encode()
    return tables


def _columns(report: Mapping[str, Any], path: str, names: Mapping[str, str]) -> Table:
    """Build a table from lists of equal length; `names` maps columns to keys below `path`."""
    part = find(report, path)
    return [tuple(names), *zip(*(part[key] for key in names.values()), strict=True)]


def _entries(report: Mapping[str, Any], path: str, names: Sequence[str]) -> Table:
    """Build a table from a list of records."""
    return [names, *([entry.get(name) for name in names] for entry in find(report, path))]


def _forest(report: Mapping[str, Any]) -> Table:
    names = ("candidate", "baseline", "difference", "low", "high", "queries", "classes", "margin", "p_holm")
    compared = report["comparison"]
    entries = [(f"metric {name}", entry) for name, entry in compared["metrics"].items()]
    entries += [(f"slice {entry['name']}", entry) for entry in compared["slices"]]
    return [("name", *names), *((name, *(entry.get(key) for key in names)) for name, entry in entries)]


def _untrained(report: Mapping[str, Any]) -> Table:
    names = ("candidate", "baseline", "difference", "low", "high", "queries", "classes")
    entries = [
        (entry["name"], metric, found) for entry in report["untrained"] for metric, found in entry["metrics"].items()
    ]
    return [("baseline", "metric", *names), *((*key, *(found[name] for name in names)) for *key, found in entries)]


def _curve(report: Mapping[str, Any]) -> Table:
    curve = report["recall_curve"]
    baseline = curve.get("baseline") or [None] * len(curve["k"])
    return [("k", "recall", "baseline"), *zip(curve["k"], curve["candidate"], baseline, strict=True)]


def _training(report: Mapping[str, Any]) -> Table:
    epochs = report["training"]["epochs"]
    columns = list(dict.fromkeys(name for row in epochs for name in row))  # epoch 0 has no loss
    return [columns, *([row.get(column) for column in columns] for row in epochs)]


def _similarities(report: Mapping[str, Any]) -> Table:
    bars = report["similarities"]
    rows = zip(
        bars["edges"], bars["edges"][1:], bars["positive"], bars["hardest_negative"], bars["negative"], strict=False
    )
    return [("from", "to", "same_class_pairs", "nearest_wrong_items", "all_wrong_items"), *rows]


def _reliability(report: Mapping[str, Any]) -> Table:
    names = ("low", "high", "pairs", "predicted", "observed")
    found = report["calibration"]["check"]["probability"]
    return [
        ("kind", *names),
        *(("after", *(entry[name] for name in names)) for entry in found["bins"]),
        *(("before", *(entry[name] for name in names)) for entry in found["bins_before"]),
    ]


def _confusion(report: Mapping[str, Any]) -> Table:
    shown = report["confusion"]
    return [("query", *shown["labels"]), *zip(shown["labels"], *zip(*shown["shares"], strict=True), strict=True)]


def _suspects(report: Mapping[str, Any]) -> Table:
    shown = report["explorer"]
    ids, labels = shown["ids"], shown["labels"]
    pairs = zip(shown["queries"], shown["neighbors"], shown["similarities"], strict=True)
    wrong = [
        (similarity[0], ids[query], labels[query], ids[near[0]], labels[near[0]])
        for query, near, similarity in pairs
        if labels[query] != labels[near[0]]
    ]
    return [("similarity", "image", "label", "nearest_image", "nearest_label"), *sorted(wrong, reverse=True)]


def _progress(report: Mapping[str, Any]) -> Table:
    return _entries(report, "search.progress", ("number", "minutes", "best"))


def _trials(report: Mapping[str, Any]) -> Table:
    search = report["search"]
    facts = ("number", "state", "reason", "score", "seconds", "worker")
    paths = [setting["path"] for setting in search["settings"]]
    return [
        (*facts, "samples_seen", *paths),
        *(
            (
                *(trial[name] for name in facts),
                trial["samples"][-1] if trial["samples"] else 0,
                *(trial["values"].get(path) for path in paths),
            )
            for trial in search["trials"]
        ),
    ]


_CLASS = ("label", "images", "queries", "map@r", "recall@1", "baseline")
_ROC = {name: name for name in ("threshold", "false_accept", "true_accept")}
_MAP = {"x": "x", "y": "y", "label": "labels", "id": "ids"}

_TABLES: dict[str, tuple[str, Callable[[Mapping[str, Any]], Table]]] = {
    "untrained": ("untrained", _untrained),
    "forest": ("comparison.metrics", _forest),
    "training": ("training.epochs", _training),
    "diagnostics": ("training.epochs.0.effective_rank", _training),
    "recall-curve": ("recall_curve", _curve),
    "growth": ("growth", lambda r: _columns(r, "growth", {"share": "wrong_items_kept", "recall@1": "recall@1"})),
    "classes": ("classes", lambda r: _entries(r, "classes", _CLASS)),
    "class-sizes": ("classes", lambda r: _entries(r, "classes", ("label", "images"))),
    "confusion": ("confusion", _confusion),
    "similarities": ("similarities", _similarities),
    "roc": ("verification", lambda r: _columns(r, "verification.roc", _ROC)),
    "det": ("verification", lambda r: _columns(r, "verification.roc", _ROC)),
    "reliability": ("calibration.check", _reliability),
    "risk-coverage": (
        "calibration.check.risk_coverage",
        lambda r: _columns(r, "calibration.check.risk_coverage", {"coverage": "coverage", "error": "error"}),
    ),
    "spectrum": ("space", lambda r: [("direction", "share"), *enumerate(r["space"]["spectrum"], 1)]),
    "hubs": (
        "space.hubness",
        lambda r: _columns(r, "space.hubness.histogram", {"times_from": "times", "items": "items"}),
    ),
    "suspects": ("explorer", _suspects),
    "map": ("map", lambda r: _columns(r, "map", _MAP)),
    "index": (
        "index_trial.trade",
        lambda r: _entries(r, "index_trial.trade", ("leaves", "neighbor_recall", "p50", "chosen")),
    ),
    "index-trials": (
        "index_trial.trials",
        lambda r: _entries(r, "index_trial.trials", tuple(r["index_trial"]["trials"][0])),
    ),
    "search-progress": ("search.progress", _progress),
    "search-settings": ("search.settings", _trials),
    "search-importance": (
        "search.importance.settings",
        lambda r: _entries(r, "search.importance.settings", ("path", "importance", "low", "high")),
    ),
}
