"""NCALoss against a hand-worked number and a plain loop over the batch, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.nca import NCALoss


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(x, labels, scale, dot):
    costs = []
    for i in range(len(x)):
        near = {
            k: np.exp(scale * x[i] @ x[k] if dot else -scale * np.sum((x[i] - x[k]) ** 2))
            for k in range(len(x))
            if k != i
        }
        own = sum(value for k, value in near.items() if labels[k] == labels[i])
        if own > 0:
            costs.append(-np.log(own / sum(near.values())))
    return np.mean(costs) if costs else 0.0


def test_hand_worked_batch():
    # distances 1 and 2 from 0, 1 and 1 from 1; the third has no positive
    embeddings, labels = np.array([[0.0], [1.0], [2.0]]), np.array([5, 5, 7])
    wanted = (np.log1p(np.exp(-3)) + np.log(2)) / 2
    assert float(NCALoss(normalize=False)(embeddings, labels)) == pytest.approx(wanted, rel=1e-6)


@given(st.integers(1, 10), st.integers(1, 4), st.floats(0.1, 3.0), st.booleans(), st.booleans(), st.integers(0, 2**16))
def test_matches_reference(rows, classes, scale, dot, normalize, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    params = {"distance": "dot"} if dot else {}
    value = float(NCALoss(scale, **params, normalize=normalize, dtype="float64")(embeddings, labels))
    wanted = reference(units(embeddings) if normalize else embeddings, labels, scale, dot)
    assert value == pytest.approx(wanted, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"softmax_scale": 0}, "`softmax_scale` must be positive. Received: softmax_scale=0"),
        ({"reducer": "median"}, "`reducer` must be one of"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        NCALoss(**params)
