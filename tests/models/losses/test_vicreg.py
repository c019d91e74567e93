"""VICRegLoss against a hand-worked number and the formula by numpy's covariance, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.vicreg import VICRegLoss


def reference(x, labels, weights, eps):
    pairs = [np.flatnonzero(labels == label)[:2] for label in sorted(set(labels)) if np.sum(labels == label) > 1]
    if len(pairs) < 2:
        return 0.0
    views, dim = [x[[pair[side] for pair in pairs]] for side in (0, 1)], x.shape[1]
    loss = weights[0] * np.mean((views[0] - views[1]) ** 2)
    for view in views:
        covariance = np.cov(view, rowvar=False).reshape(dim, dim)
        short = [max(0, 1 - np.sqrt(covariance[c, c] + eps)) for c in range(dim)]
        shared = sum(covariance[c, d] ** 2 for c in range(dim) for d in range(dim) if c != d)
        loss += weights[1] * np.mean(short) / 2 + weights[2] * shared / dim
    return loss


def test_hand_worked_batch():
    # views (0, 0), (2, 2) and the same again: variances 2, covariance 2 in both views: 2 * (2 * 4) / 2
    embeddings, labels = np.array([[0.0, 0], [2, 2], [0, 0], [2, 2]]), np.array([5, 7, 5, 7])
    assert float(VICRegLoss()(embeddings, labels)) == pytest.approx(8.0, rel=1e-6)


@given(st.integers(1, 10), st.integers(1, 4), st.lists(st.floats(0, 25), min_size=3, max_size=3), st.integers(0, 2**16))
def test_matches_reference(rows, classes, weights, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    value = float(VICRegLoss(*weights, dtype="float64")(embeddings, labels))
    assert value == pytest.approx(reference(embeddings, labels, weights, 1e-4), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"variance_mu": -1}, "`variance_mu` must not be negative. Received: variance_mu=-1"),
        ({"eps": 0}, "`eps` must be positive"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        VICRegLoss(**params)
