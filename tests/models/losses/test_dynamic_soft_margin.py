"""DynamicSoftMarginLoss against a plain loop over triplets and batches, in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchorage.losses.dynamic_soft_margin import DynamicSoftMarginLoss


def triplet_gaps(x, labels):
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    d, n = np.linalg.norm(x[:, None] - x[None], axis=2), range(len(x))
    return [
        d[a, p] - d[a, k]
        for a in n
        for p in n
        for k in n
        if p != a and labels[p] == labels[a] and labels[k] != labels[a]
    ]


def reference(batches, num_bins, momentum, min_val=-2.0):
    nodes, held = np.linspace(min_val, -min_val, num_bins + 1), None
    for x, labels in batches:
        gaps = triplet_gaps(x, labels)
        if not gaps:
            value = 0.0
            continue
        inside = np.clip(gaps, min_val, -min_val)
        counts = sum(np.maximum(0, 1 - np.abs(gap - nodes) * num_bins / -min_val / 2) for gap in inside)
        fresh = counts / counts.sum()
        held = fresh if held is None else (1 - momentum) * held + momentum * fresh
        value = np.mean([held[nodes <= max(gap, min_val)].sum() * gap for gap in gaps])
    return value


def test_hand_worked_batch():
    # nodes -2, 0, 2; both gaps are 2 - sqrt(2), of which 1 - gap / 2 falls to the node 0 below them
    embeddings, labels = np.array([[1.0, 0], [-1.0, 0], [0, 1.0]]), np.array([5, 5, 7])
    gap = 2 - np.sqrt(2)
    assert float(DynamicSoftMarginLoss(num_bins=2)(embeddings, labels)) == pytest.approx((1 - gap / 2) * gap, rel=1e-5)


@settings(max_examples=10)
@given(
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 12) | st.integers(13, 99),  # from some number of nodes on they are looked up
    st.floats(0.01, 1.0),
    st.sampled_from([-0.1, -0.7, -1.9, -2.0, -3.0]),
    st.integers(0, 2**16),
)
def test_matches_reference_over_three_batches(rows, classes, num_bins, momentum, min_val, seed):
    rng = np.random.default_rng(seed)
    batches = [(rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)) for _ in range(3)]
    loss = DynamicSoftMarginLoss(min_val, num_bins, momentum, dtype="float64")
    for end in range(3):
        value = float(loss(*batches[end]))
        assert value == pytest.approx(reference(batches[: end + 1], num_bins, momentum, min_val), rel=1e-7, abs=1e-10)


def test_histogram_stands_still_outside_training():
    rng = np.random.default_rng(0)
    loss, labels = DynamicSoftMarginLoss(), np.array([0, 0, 1, 1])
    loss(rng.normal(size=(4, 3)), labels)
    before = loss.histogram.numpy()
    loss(rng.normal(size=(4, 3)), labels, training=False)
    np.testing.assert_array_equal(loss.histogram, before)
    assert before.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"min_val": 0}, r"`min_val` must be negative. Received: min_val=0"),
        ({"num_bins": 0}, r"`num_bins` must be a whole number, at least 1. Received: num_bins=0"),
        ({"momentum": 2}, r"`momentum` must lie in \[0, 1\]. Received: momentum=2"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        DynamicSoftMarginLoss(**params)
