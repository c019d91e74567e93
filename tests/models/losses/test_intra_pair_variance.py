"""IntraPairVarianceLoss against a hand-worked number and a plain loop over pairs, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.intra_pair_variance import IntraPairVarianceLoss


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(x, labels, pos_eps, neg_eps):
    s = units(x) @ units(x).T
    pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]
    positive = [s[i, j] for i, j in pairs if labels[i] == labels[j]]
    negative = [s[i, j] for i, j in pairs if labels[i] != labels[j]]
    total = 0.0
    if positive:
        total += np.mean([max(0, (1 - pos_eps) * np.mean(positive) - value) ** 2 for value in positive])
    if negative:
        total += np.mean([max(0, value - (1 + neg_eps) * np.mean(negative)) ** 2 for value in negative])
    return total


def test_hand_worked_batch():
    # positives: one cosine, its own mean 0; negatives: cosines 0 (twice) and -1 (twice), mean -1/2, slack 1/2 of it
    embeddings, labels = np.array([[1.0, 0], [0, 1.0], [-1.0, 0]]), np.array([5, 5, 7])
    assert float(IntraPairVarianceLoss(0.0, 0.5)(embeddings, labels)) == pytest.approx(0.75**2 / 2)


@given(st.integers(1, 10), st.integers(1, 4), st.floats(0.0, 0.5), st.floats(0.0, 0.5), st.integers(0, 2**16))
def test_matches_reference(rows, classes, pos_eps, neg_eps, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    value = float(IntraPairVarianceLoss(pos_eps, neg_eps, dtype="float64")(embeddings, labels))
    assert value == pytest.approx(reference(embeddings, labels, pos_eps, neg_eps), rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"pos_eps": -1}, "`pos_eps` must not be negative. Received: pos_eps=-1"),
        ({"reducer": "median"}, "`reducer` must be one of"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        IntraPairVarianceLoss(**params)
