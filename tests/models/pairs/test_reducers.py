"""Reducers by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from anchorage.losses.contrastive import ContrastiveLoss
from anchorage.pairs.reducers import PAIR_REDUCERS, check_any_reducer, reduce_costs

VECTORS = Path(__file__).parents[2] / "data" / "vectors" / "19-balance-contrastive.json"
COSTS = np.array([[1.0, 0.0, 4.0], [2.0, 8.0, 0.0]])
MASK = np.array([[True, True, False], [True, True, True]])
LABELS = np.array([1, 0])


@pytest.mark.parametrize(
    ("reducer", "wanted"),
    [
        ("mean", 11 / 5),
        ("avg_non_zero", 11 / 3),
        ("sum", 11),
        ("sum_per_row", 11 / 2),
        ("sum_per_entry", 11 / 6),
        ("per_anchor", (1 / 2 + 10 / 3) / 2),
        ("anchor_mean", (1 / 2 + 10 / 3) / 2),
        ("anchor_mean_nonzero", (1 + 10 / 2) / 2),
        ({"name": "threshold", "low": 1.0}, 10 / 2),
        ({"name": "threshold", "low": 0.0, "high": 8.0}, 3 / 2),
        ({"name": "class_weighted", "weights": [3.0, 0.5]}, (0.5 + 30) / 5),
    ],
    ids=str,
)
def test_hand_worked(reducer, wanted):
    assert float(reduce_costs(COSTS, MASK, check_any_reducer(reducer, PAIR_REDUCERS), LABELS)) == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["margin_unbalanced_anchor_mean", "margin_unbalanced_anchor_mean_nonzero"])
def test_means_over_anchors_of_a_published_batch(name):
    case = next(case for case in json.loads(VECTORS.read_text()) if case["name"] == name)
    margins = {"pos_margin": case["params"].get("pos_margin", 1.0), "neg_margin": case["params"]["margin"]}
    loss = ContrastiveLoss(**margins, distance="cosine", reducer=case["params"]["aggregation"], dtype="float64")
    value = loss(np.array(case["inputs"]["embeddings"]), np.array(case["inputs"]["labels"]))
    assert float(value) == pytest.approx(case["expected"]["positive"] + case["expected"]["entropy"], rel=1e-9)


def test_anchors_without_pairs_are_left_out_of_the_mean_over_anchors():
    mask = np.array([[True, True, True], [False, False, False]])
    assert float(reduce_costs(COSTS, mask, "anchor_mean")) == pytest.approx(5 / 3)
    assert float(reduce_costs(COSTS, mask, "anchor_mean_nonzero")) == pytest.approx(5 / 2)
    assert float(reduce_costs(COSTS, mask, "per_anchor")) == pytest.approx(5 / 6)


@pytest.mark.parametrize("reducer", [name for name in PAIR_REDUCERS if name not in ("threshold", "class_weighted")])
def test_nothing_counts(reducer):
    assert float(reduce_costs(COSTS, np.zeros_like(MASK), reducer)) == 0


def test_rejects_a_class_without_a_weight():
    with pytest.raises(ValueError, match=r"Expected `labels` in 0 \.\. 0, .*Received: labels from 0 to 1\. Give"):
        reduce_costs(COSTS, MASK, {"name": "class_weighted", "weights": [3.0]}, LABELS)


@pytest.mark.parametrize(
    ("reducer", "text"),
    [
        ("median", "`reducer` must be one of .*'per_anchor'.*Received: reducer='median'"),
        ("threshold", "`reducer` 'threshold' takes .'high', 'low'.. Received"),
        ({"name": "threshold", "above": 1}, "`reducer` 'threshold' takes .'high', 'low'.. Received"),
        ({"name": "mean", "low": 1}, r"`reducer` 'mean' takes \[\]. Received"),
    ],
)
def test_rejects_invalid_reducers(reducer, text):
    with pytest.raises(ValueError, match=text):
        check_any_reducer(reducer)
