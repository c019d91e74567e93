"""ThresholdConsistentMarginLoss against a hand-worked number and a plain loop over pairs, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.threshold_consistent_margin import ThresholdConsistentMarginLoss


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(x, labels, plus, minus, margin_plus, margin_minus):
    s = units(x) @ units(x).T
    pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]
    far = [margin_plus - s[i, j] for i, j in pairs if labels[i] == labels[j] and s[i, j] <= margin_plus]
    near = [s[i, j] - margin_minus for i, j in pairs if labels[i] != labels[j] and s[i, j] >= margin_minus]
    return (plus * np.mean(far) if far else 0.0) + (minus * np.mean(near) if near else 0.0)


def test_hand_worked_batch():
    # the positive pair has cosine 0; of the negatives' cosines 0 and -1 the first is above -1/2
    embeddings, labels = np.array([[1.0, 0], [0, 1.0], [-1.0, 0]]), np.array([5, 5, 7])
    loss = ThresholdConsistentMarginLoss(2.0, 3.0, margin_plus=0.9, margin_minus=-0.5)
    assert float(loss(embeddings, labels)) == pytest.approx(2 * 0.9 + 3 * 0.5)


@given(
    st.integers(1, 10),
    st.integers(1, 4),
    st.floats(0, 2),
    st.floats(0, 2),
    st.floats(-1, 1),
    st.floats(-1, 1),
    st.integers(0, 2**16),
)
def test_matches_reference(rows, classes, plus, minus, margin_plus, margin_minus, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    loss = ThresholdConsistentMarginLoss(plus, minus, margin_plus, margin_minus, dtype="float64")
    wanted = reference(embeddings, labels, plus, minus, margin_plus, margin_minus)
    assert float(loss(embeddings, labels)) == pytest.approx(wanted, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"lambda_plus": -1}, "`lambda_plus` must not be negative"),
        ({"margin_minus": 2}, "`margin_minus` must lie in .-1, 1.. Received: margin_minus=2"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        ThresholdConsistentMarginLoss(**params)
