"""ContrastiveLoss against hand-worked values and a plain loop over pairs."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.contrastive import ContrastiveLoss


def reference(embeddings, labels, pos_margin, neg_margin, power, reducer):
    """The two sets of pairs as a loop, in float64."""
    costs = {True: [], False: []}
    for i, j in permutations(range(len(labels)), 2):
        d = np.linalg.norm(embeddings[i] - embeddings[j])
        same = labels[i] == labels[j]
        costs[same].append(max(0.0, d - pos_margin if same else neg_margin - d) ** power)
    total = 0.0
    for side in costs.values():
        counted = [cost for cost in side if cost > 0 or reducer == "mean"]
        total += np.sum(side) / (1 if reducer == "sum" else max(len(counted), 1))
    return total


def test_hand_worked_batch():
    # distances 0.5 (same label), 1 and 0.5 (other label): positives cost 0.5, negatives 0 and 0.5
    embeddings, labels = np.array([[0.0], [0.5], [1.0]], "float32"), np.array([0, 0, 1])
    assert float(ContrastiveLoss(normalize=False)(embeddings, labels)) == pytest.approx(1.0)
    assert float(ContrastiveLoss(normalize=False, reducer="mean")(embeddings, labels)) == pytest.approx(0.75)
    assert float(ContrastiveLoss(normalize=False, reducer="sum", power=2)(embeddings, labels)) == pytest.approx(1.0)


def test_hand_worked_cosines():
    # cosines: 0.6 within the class, 1 and 0.6 across
    embeddings, labels = np.array([[1.0, 0.0], [3.0, 4.0], [2.0, 0.0]], "float32"), np.array([0, 0, 1])
    loss = ContrastiveLoss(pos_margin=1.0, neg_margin=0.5, distance="cosine")
    assert float(loss(embeddings, labels)) == pytest.approx(0.4 + (0.5 + 0.1) / 2, rel=1e-5)


@given(
    st.integers(1, 10),
    st.integers(2, 5),
    st.integers(1, 4),
    st.floats(0.0, 0.5),
    st.floats(0.5, 2.0),
    st.sampled_from([1, 2]),
    st.sampled_from(["avg_non_zero", "mean", "sum"]),
    st.integers(0, 2**16),
)
def test_matches_reference(rows, dim, classes, pos_margin, neg_margin, power, reducer, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, dim)), rng.integers(0, classes, rows)
    loss = ContrastiveLoss(pos_margin, neg_margin, power, reducer=reducer, dtype="float64")
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    wanted = reference(units, labels, pos_margin, neg_margin, power, reducer)
    assert float(loss(embeddings, labels)) == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_manhattan_distances_have_the_value_of_another_library():
    # pytorch-metric-learning 2.9.0 in float64: ContrastiveLoss(0, 2, distance=LpDistance(p=1)) without normalising.
    x, labels = np.random.default_rng(5).normal(size=(8, 3)), np.array([0, 0, 1, 1, 2, 2, 2, 0])
    loss = ContrastiveLoss(neg_margin=2.0, distance="manhattan", normalize=False, dtype="float64")
    assert float(loss(x, labels)) == pytest.approx(3.5861302382304734, rel=1e-9)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"power": 3}, "`power` must be 1 or 2. Received: power=3"),
        ({"pos_margin": 1.0, "neg_margin": 0.5}, "`neg_margin` must not be below `pos_margin`"),
        ({"distance": "cosine"}, "`neg_margin` must not be above `pos_margin` with distance='cosine'"),
        ({"distance": "chebyshev"}, "`distance` must be one of .*'snr'.*Received: distance='chebyshev'"),
        ({"reducer": "median"}, "`reducer` must be one of .*Received: reducer='median'"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        ContrastiveLoss(**params)
