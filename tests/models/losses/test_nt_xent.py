"""NTXentLoss against a hand-worked number and a plain loop over the batch, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.nt_xent import NTXentLoss


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(x, labels, temperature):
    s, costs = units(x) @ units(x).T / temperature, []
    for a in range(len(x)):
        negatives = np.exp(s[a][labels != labels[a]])
        for p in range(len(x)):
            if p != a and labels[p] == labels[a]:
                costs.append(-np.log(np.exp(s[a, p]) / (np.exp(s[a, p]) + negatives.sum())))
    return np.mean(costs) if costs else 0.0


def test_hand_worked_batch():
    # s = 1 to the positive and 0 to each of two negatives, for both anchors: log(1 + 2 / e)
    embeddings, labels = np.array([[1.0, 0], [2.0, 0], [0, 1.0], [0, -3.0]]), np.array([5, 5, 7, 9])
    assert float(NTXentLoss(1.0)(embeddings, labels)) == pytest.approx(np.log(1 + 2 / np.e), rel=1e-6)


@given(st.integers(1, 10), st.integers(1, 4), st.floats(0.05, 2.0), st.integers(0, 2**16))
def test_matches_reference(rows, classes, temperature, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    value = float(NTXentLoss(temperature, dtype="float64")(embeddings, labels))
    assert value == pytest.approx(reference(embeddings, labels, temperature), rel=1e-9, abs=1e-12)


def test_a_distance_counts_as_negative_similarity():
    # on unit rows d^2 = 2 - 2 s, and a constant cancels
    rng = np.random.default_rng(3)
    embeddings, labels = rng.normal(size=(8, 3)), np.arange(8) % 3
    by_distance = NTXentLoss(1.0, distance="squared_euclidean", dtype="float64")(embeddings, labels)
    assert float(by_distance) == pytest.approx(float(NTXentLoss(0.5, dtype="float64")(embeddings, labels)), rel=1e-9)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"temperature": -0.1}, "`temperature` must be positive. Received: temperature=-0.1"),
        ({"distance": "taxi"}, "`distance` must be one of"),
        ({"reducer": "median"}, "`reducer` must be one of"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        NTXentLoss(**params)
