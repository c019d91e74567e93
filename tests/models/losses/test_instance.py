"""InstanceLoss against a hand-worked number and a plain loop over the batch, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.instance import InstanceLoss


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(x, gamma):
    s = gamma * units(x) @ units(x).T
    return np.mean([np.log(np.sum(np.exp(s[i] - s[i, i]))) for i in range(len(x))])


def test_hand_worked_batch():
    # cosines 0 and -1 from the outer rows, 0 and 0 from the middle one
    embeddings, labels = np.array([[1.0, 0], [0, 1.0], [-1.0, 0]]), np.array([5, 5, 7])
    wanted = (2 * np.log(1 + np.exp(-1) + np.exp(-2)) + np.log(1 + 2 * np.exp(-1))) / 3
    assert float(InstanceLoss(1.0)(embeddings, labels)) == pytest.approx(wanted, rel=1e-6)


@given(st.integers(1, 10), st.integers(1, 4), st.floats(0.5, 32.0), st.integers(0, 2**16))
def test_matches_reference(rows, classes, gamma, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    value = float(InstanceLoss(gamma, dtype="float64")(embeddings, labels))
    assert value == pytest.approx(reference(embeddings, gamma), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"gamma": 0}, "`gamma` must be positive. Received: gamma=0"),
        ({"reducer": "median"}, "`reducer` must be one of"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        InstanceLoss(**params)
