"""RankedListLoss against a hand-worked number and a plain loop over the batch, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.ranked_list import RankedListLoss


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(x, labels, margin, tn, imbalance, alpha, tp):
    x, n = units(x), len(x)
    d, costs = np.linalg.norm(x[:, None] - x[None], axis=2), []
    for i in range(n):
        pull = [d[i, k] - (alpha - margin) for k in range(n) if k != i and labels[k] == labels[i]]
        push = [alpha - d[i, k] for k in range(n) if labels[k] != labels[i]]
        parts = []
        for gaps, sharpness in ((pull, tp), (push, tn)):
            gaps = np.array([gap for gap in gaps if gap > 0])
            weights = np.exp(sharpness * gaps)
            parts.append(np.sum(weights * gaps) / (np.sum(weights) + n * 1e-5))
        costs.append((1 - imbalance) * parts[0] + imbalance * parts[1])
    return np.mean(costs)


def test_hand_worked_batch():
    # opposite rows of one class: d = 2, alpha - margin = 0.5
    embeddings, labels = np.array([[1.0, 0], [-1.0, 0]]), np.array([5, 5])
    loss = RankedListLoss(margin=0.5, alpha=1.0, imbalance=0.25)
    assert float(loss(embeddings, labels)) == pytest.approx(0.75 * 1.5 / (1 + 2e-5), rel=1e-6)


@given(
    st.integers(1, 10),
    st.integers(1, 4),
    st.floats(0.1, 0.9),
    st.floats(0, 10),
    st.floats(0, 1),
    st.floats(0, 3),
    st.integers(0, 2**16),
)
def test_matches_reference(rows, classes, margin, tn, imbalance, tp, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    loss = RankedListLoss(margin, tn, imbalance, tp=tp, dtype="float64")
    wanted = reference(embeddings, labels, margin, tn, imbalance, 1 + margin / 2, tp)
    assert float(loss(embeddings, labels)) == pytest.approx(wanted, rel=1e-7, abs=1e-10)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"margin": 0}, "`margin` must be positive. Received: margin=0"),
        ({"alpha": 0.3}, "`alpha` must be above `margin`. Received: alpha=0.3, margin=0.4"),
        ({"imbalance": 2}, "`imbalance` must lie in .0, 1."),
        ({"tn": -1}, "`tn` must not be negative"),
        ({"reducer": "median"}, "`reducer` must be one of"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        RankedListLoss(**params)
