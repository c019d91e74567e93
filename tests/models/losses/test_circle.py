"""CircleLoss against a hand-worked number and a plain loop over the batch, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.circle import CircleLoss


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(x, labels, m, gamma):
    s, costs = units(x) @ units(x).T, []
    for i in range(len(x)):
        pull = sum(
            np.exp(-gamma * max(0, 1 + m - s[i, k]) * (s[i, k] - (1 - m)))
            for k in range(len(x))
            if k != i and labels[k] == labels[i]
        )
        push = sum(np.exp(gamma * max(0, s[i, k] + m) * (s[i, k] - m)) for k in range(len(x)) if labels[k] != labels[i])
        costs.append(np.log1p(pull * push))
    counted = [cost for cost in costs if cost > 0]
    return np.mean(counted) if counted else 0.0


def test_hand_worked_batch():
    # m = 1/2, gamma = 1. Positive: s = 1, -(1/2)(1/2). Negative: s = 0, (1/2)(-1/2). The third has no positive.
    embeddings, labels = np.array([[1.0, 0], [2.0, 0], [0, 1.0]]), np.array([5, 5, 7])
    assert float(CircleLoss(0.5, 1.0)(embeddings, labels)) == pytest.approx(np.log1p(np.exp(-0.5)), rel=1e-6)


@given(st.integers(1, 10), st.integers(1, 4), st.floats(0.0, 1.0), st.floats(0.5, 16.0), st.integers(0, 2**16))
def test_matches_reference(rows, classes, m, gamma, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    value = float(CircleLoss(m, gamma, dtype="float64")(embeddings, labels))
    assert value == pytest.approx(reference(embeddings, labels, m, gamma), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"m": 1.5}, "`m` must lie in .0, 1.. Received: m=1.5"),
        ({"gamma": 0}, "`gamma` must be positive"),
        ({"reducer": "median"}, "`reducer` must be one of"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        CircleLoss(**params)
