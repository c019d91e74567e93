"""ManifoldLoss against a hand-worked number and the graph written out in numpy, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.manifold import ManifoldLoss


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def rank_costs(ranks, own, margin):
    costs = []
    for row, c in zip(ranks, own, strict=True):
        gaps = [row[k] - row[c] + margin for k in range(len(row)) if k != c]
        costs.append(np.log1p(sum(np.exp(gap) for gap in gaps if gap >= 0)))
    return np.array(costs)


def reference(x, labels, proxies, weight, alpha, margin):
    n, points = len(x), np.concatenate([units(x), units(proxies)])
    edges = np.exp(2 * np.maximum(0, points @ points.T)) * (1 - np.eye(len(points)))
    degree = edges.sum(axis=1)
    walk = (1 - alpha) * np.linalg.inv(np.eye(len(points)) - alpha * edges / np.sqrt(np.outer(degree, degree)))
    cosines = units(walk) @ units(walk).T
    parts = (rank_costs(ranks[:n, n:], labels, margin) for ranks in (walk, cosines))
    return np.mean(next(parts) + weight * next(parts))


def make(proxies, **params):
    loss = ManifoldLoss(len(proxies), assignment="labels", dtype="float64", **params)
    loss.build((None, proxies.shape[1]), (None,))
    loss.proxies.assign(proxies)
    return loss


def test_hand_worked_batch():
    # without a walk (alpha = 0) F is the identity: all ranks of proxies 0, gaps of exactly the margin
    loss = make(np.eye(3), alpha=0.0, margin=0.5, lambda_c=0.0)
    assert float(loss(np.eye(3), np.array([0, 1, 2]))) == pytest.approx(np.log1p(2 * np.exp(0.5)))


@given(
    st.integers(1, 8), st.integers(2, 4), st.floats(0, 2), st.floats(0.1, 0.9), st.floats(0, 0.1), st.integers(0, 2**16)
)
def test_matches_reference(rows, classes, weight, alpha, margin, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    proxies = rng.normal(size=(classes, 3))
    loss = make(proxies, lambda_c=weight, alpha=alpha, margin=margin)
    wanted = reference(embeddings, labels, proxies, weight, alpha, margin)
    assert float(loss(embeddings, labels)) == pytest.approx(wanted, rel=1e-7, abs=1e-10)


def test_random_assignment_hangs_on_the_seed_and_moves_on():
    embeddings, labels = np.random.default_rng(0).normal(size=(6, 3)), np.zeros(6, int)
    values = []
    for seed in (1, 1, 2):
        loss = ManifoldLoss(5, seed=seed, dtype="float64", margin=0.1)
        loss.build((None, 3), (None,))
        loss.proxies.assign(np.random.default_rng(1).normal(size=(5, 3)))
        values.append([float(loss(embeddings, labels)) for _ in range(2)])
    assert values[0] == values[1] != values[2]
    assert values[0][0] != values[0][1]


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"alpha": 1}, "`alpha` must lie in .0, 1.. Received: alpha=1"),
        ({"assignment": "nearest"}, "`assignment` must be 'random' or 'labels'"),
        ({"num_proxies": 0}, "`num_proxies` must be at least 2"),
        ({"reducer": "median"}, "`reducer` must be one of"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        ManifoldLoss(**params)
