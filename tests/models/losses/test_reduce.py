"""Reducers by hand."""

import numpy as np
import pytest

from models.losses._reduce import PAIR_REDUCERS, check_any_reducer, reduce_costs

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
        ({"name": "threshold", "low": 1.0}, 10 / 2),
        ({"name": "threshold", "low": 0.0, "high": 8.0}, 3 / 2),
        ({"name": "class_weighted", "weights": [3.0, 0.5]}, (0.5 + 30) / 5),
    ],
    ids=str,
)
def test_hand_worked(reducer, wanted):
    assert float(reduce_costs(COSTS, MASK, check_any_reducer(reducer, PAIR_REDUCERS), LABELS)) == pytest.approx(wanted)


@pytest.mark.parametrize("reducer", ["mean", "avg_non_zero", "sum", "sum_per_row", "sum_per_entry", "per_anchor"])
def test_nothing_counts(reducer):
    assert float(reduce_costs(COSTS, np.zeros_like(MASK), reducer)) == 0


def test_class_without_a_weight_is_told():
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
def test_wrong_ones_are_told(reducer, text):
    with pytest.raises(ValueError, match=text):
        check_any_reducer(reducer)
