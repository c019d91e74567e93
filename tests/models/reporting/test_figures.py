import copy

import pytest
from PIL import Image
from searches import record, trial

from anchorage.judging.searched import describe_search
from anchorage.reporting.figures import FIGURES, draw_figures, find

ENTRY = {"queries": 9, "classes": 5, "candidate": 0.5, "baseline": 0.4, "difference": 0.1, "low": -0.1, "high": 0.2}
SLICE = {**ENTRY, "margin": 0.05, "judged": True, "worse": True, "p": 0.01, "p_holm": 0.02}
BIN = {"low": 0.4, "high": 0.5, "pairs": 9, "predicted": 0.45, "observed": 0.5}
IMPORTANCE = {"settings": [{"path": "loss", "importance": 0.3, "low": -0.1, "high": 0.5}]}
REPORT = {
    "training": {
        "best_epoch": 1,
        "epochs": [
            {"epoch": 0, "val_map@r": 0.2, "val_recall@1": 0.4, "effective_rank": 12.0},
            {"epoch": 1, "loss": 2.0, "val_map@r": 0.3, "effective_rank": 9.0, "active_pairs": 0.5},
            {"epoch": 2, "loss": 1.0, "effective_rank": 7.0},
        ],
    },
    "comparison": {
        "primary": "map@r",
        "margin": 0.01,
        "lower_bound": -0.2,
        "metrics": {"map@r": ENTRY, "recall@1": ENTRY},
        "slices": [{"name": "class_size=1-5", **SLICE}, {"name": "x" * 60, **SLICE, "judged": False, "worse": False}],
    },
    "recall_curve": {"k": [1, 2, 5], "candidate": [0.5, 0.7, 1.0], "queries": 9},
    "growth": {"wrong_items_kept": [0.01, 0.1, 1.0], "gallery": 90, "recall@1": [0.9, 0.8, 0.5]},
    "classes": [
        {"label": "a", "images": 3, "map@r": 0.1, "baseline": 0.2},
        {"label": "b", "images": 9, "map@r": 0.8, "baseline": 0.1},
    ],
    "confusion": {"labels": ["a", "b"], "shares": [[0.5, 0.5], [0.25, 0.75]]},
    "similarities": {
        "edges": [-1, 0, 0.5, 1],
        "positive": [0, 1, 5],
        "negative": [4, 3, 0],
        "hardest_negative": [2, 3, 0],
        "overlap": 0.2,
        "queries": 5,
    },
    "verification": {
        "roc": {"threshold": [0.9, 0.5, 0.1], "false_accept": [0.001, 0.1, 1.0], "true_accept": [0.2, 0.8, 1.0]},
        "equal_error": {"rate": 0.15},
        "at": [
            {"target": 0.1, "false_accept": 0.1, "true_accept": 0.8, "interval": [0.7, 0.9]},
            {"target": 1e-4, "reason": "too few"},
        ],
    },
    "calibration": {
        "check": {
            "probability": {"bins": [BIN], "bins_before": [BIN], "error": {"value": 0.05}, "error_before": 0.1},
            "risk_coverage": {"coverage": [0.5, 1.0], "error": [0.0, 0.2]},
        },
    },
    "space": {
        "effective_rank": 1.9,
        "dimension": 3,
        "spectrum": [0.6, 0.3, 0.1],
        "hubness": {"k": 5, "histogram": {"times": [0, 1, 2, 4], "items": [1, 2, 3, 1]}},
    },
    "map": {"x": [0.0, 1.0, 2.0], "y": [0.0, 1.0, 0.0], "labels": ["a", "a", "b"], "right": [True, False, None]},
    "search": {**describe_search(record()), "importance": IMPORTANCE},
    "index_trial": {
        "trade": [
            {"leaves": 4, "neighbor_recall": 0.9, "p50": 0.2, "chosen": False},
            {"leaves": 8, "neighbor_recall": 1.0, "p50": 0.4, "chosen": True},
        ],
        "trials": [
            {"leaves": 8, "leaves_to_search": n, "reorder": 20, "recall": 0.8 + n / 20, "ms": n / 50} for n in (1, 2, 3)
        ],
        "chosen": {"leaves_to_search": 2, "reorder": 20},
        "min_recall": 0.9,
    },
    "baseline": {"name": "release 1"},
    "untrained": [{"name": "raw pixels", "better": False, "metrics": {"map@r": ENTRY}}],
    "headline": ["map@r"],
    "primary": "map@r",
}


def test_figures_for_what_is_there(tmp_path):
    drawn = draw_figures(REPORT, tmp_path)
    assert set(drawn) == set(FIGURES)
    assert all(svg.startswith(b"<?xml") for svg in drawn.values())
    assert Image.open(tmp_path / "classes.png").size == (864, 528)
    assert set(draw_figures({"recall_curve": REPORT["recall_curve"]}, tmp_path)) == {"recall-curve"}
    assert draw_figures({}, tmp_path) == {}


def test_same_numbers_same_bytes(tmp_path):
    some = {key: REPORT[key] for key in ("classes", "map", "similarities", "baseline")}
    assert draw_figures(some, tmp_path) == draw_figures(some, tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("recall_curve.baseline", [0.1, 0.2, 0.3]),
        ("recall_curve", {"k": [1], "candidate": [1.0], "queries": 2}),
        ("classes", [{"images": 3, "map@r": 0.1, "baseline": None}]),
        ("classes", [{"images": 1 + at, "map@r": 0.0, "baseline": 0.1} for at in range(3000)]),
        ("similarities.hardest_negative", [0, 0, 0]),
        ("training.epochs", [{"epoch": 0, "effective_rank": 3.0}]),
        ("verification.roc", {"threshold": [0.5, 0.1], "false_accept": [0.5, 1.0], "true_accept": [1.0, 1.0]}),
        ("verification.equal_error.rate", 0.0),
        ("space.hubness.histogram", {"times": [0], "items": [3]}),
        ("search", {**describe_search(record([trial(0, 0.0)], best=0)), "importance": IMPORTANCE}),
        ("comparison.slices", []),
        ("untrained", [{"name": name, "better": True, "metrics": {"map@r": ENTRY}} for name in ("a", "b", "c")]),
    ],
)
def test_odd_numbers_can_be_drawn(tmp_path, path, value):
    top, *parents = path.split(".")
    report = {key: copy.deepcopy(REPORT[key]) for key in (top, "baseline", "headline", "primary")}
    part = report
    for key in [top, *parents][:-1]:
        part = part[key]
    part[[top, *parents][-1]] = value
    wanted = {name for name, drawing in FIGURES.items() if drawing.needs.split(".")[0] == top}
    assert set(draw_figures(report, tmp_path)) == wanted


def test_find_by_path():
    assert find(REPORT, "verification.equal_error.rate") == 0.15
    assert find(REPORT, "verification.nothing.rate") is None
    assert find(REPORT, "training.epochs.2.loss") == 1.0
    assert find(REPORT, "training.epochs.3.loss") is None
    assert find({"a": "text"}, "a.b") is None
