"""TupletMarginLoss against a hand-worked number and a plain loop over the batch, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.tuplet_margin import TupletMarginLoss


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(x, labels, margin, scale):
    angles, costs = np.arccos(np.clip(units(x) @ units(x).T, -1, 1)), []
    for a in range(len(x)):
        for p in range(len(x)):
            if p != a and labels[p] == labels[a]:
                own = np.cos(angles[a, p] - np.radians(margin))
                negatives = [np.exp(scale * (np.cos(t) - own)) for t in angles[a][labels != labels[a]]]
                costs.append(np.log1p(sum(negatives)))
    return np.mean(costs) if costs else 0.0


def test_hand_worked_batch():
    # 90 degrees to the positive less 90 is 0; the negatives lie at 180 and 90 degrees
    embeddings, labels = np.array([[1.0, 0], [0, 1.0], [-1.0, 0]]), np.array([5, 5, 7])
    wanted = (np.log1p(np.exp(-2)) + np.log1p(np.exp(-1))) / 2
    assert float(TupletMarginLoss(90.0, 1.0)(embeddings, labels)) == pytest.approx(wanted, rel=1e-6)


@given(st.integers(1, 10), st.integers(1, 4), st.floats(0.0, 30.0), st.floats(1.0, 16.0), st.integers(0, 2**16))
def test_matches_reference(rows, classes, margin, scale, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    value = float(TupletMarginLoss(margin, scale, dtype="float64")(embeddings, labels))
    assert value == pytest.approx(reference(embeddings, labels, margin, scale), rel=1e-7, abs=1e-10)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"margin": -1}, "`margin` must lie in .0, 180., in degrees. Received: margin=-1"),
        ({"scale": 0}, "`scale` must be positive"),
        ({"reducer": "median"}, "`reducer` must be one of"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        TupletMarginLoss(**params)
