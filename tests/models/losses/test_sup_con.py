"""SupConLoss against a hand-worked number and a plain loop over the batch, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.sup_con import SupConLoss


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(x, labels, temperature):
    s, costs = units(x) @ units(x).T / temperature, []
    if len(set(labels)) < 2:
        return 0.0
    for i in range(len(x)):
        others = [k for k in range(len(x)) if k != i]
        positives = [k for k in others if labels[k] == labels[i]]
        if positives:
            costs.append(-np.mean([s[i, p] - np.log(sum(np.exp(s[i, k]) for k in others)) for p in positives]))
    return np.mean(costs) if costs else 0.0


def test_hand_worked_batch():
    # anchors 0 and 1: log(e + 1) - 1; the third has no positive
    embeddings, labels = np.array([[1.0, 0], [2.0, 0], [0, 1.0]]), np.array([5, 5, 7])
    assert float(SupConLoss(1.0)(embeddings, labels)) == pytest.approx(np.log(np.e + 1) - 1, rel=1e-6)


@given(st.integers(1, 10), st.integers(1, 4), st.floats(0.05, 2.0), st.integers(0, 2**16))
def test_matches_reference(rows, classes, temperature, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    value = float(SupConLoss(temperature, dtype="float64")(embeddings, labels))
    assert value == pytest.approx(reference(embeddings, labels, temperature), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"temperature": 0}, "`temperature` must be positive. Received: temperature=0"),
        ({"reducer": "median"}, "`reducer` must be one of"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        SupConLoss(**params)
