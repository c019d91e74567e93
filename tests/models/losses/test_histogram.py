"""HistogramLoss against a hand-worked number and a plain loop over pairs, in float64."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.histogram import HistogramLoss


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(x, labels, bins):
    s, nodes = units(x) @ units(x).T, -1 + 2 * np.arange(bins + 1) / bins
    found = {True: np.zeros(bins + 1), False: np.zeros(bins + 1)}
    for i, j in combinations(range(len(x)), 2):
        found[bool(labels[i] == labels[j])] += np.maximum(0, 1 - np.abs(s[i, j] - nodes) * bins / 2)
    if not (found[True].any() and found[False].any()):
        return 0.0
    positive, negative = (found[kind] / found[kind].sum() for kind in (True, False))
    return sum(negative[r] * positive[: r + 1].sum() for r in range(bins + 1))


def test_hand_worked_batch():
    # two intervals: nodes -1, 0, 1. Positive pair at 0; negative pairs at -1 and 0: half of them not below it.
    embeddings, labels = np.array([[1.0, 0], [0, 1.0], [-1.0, 0]]), np.array([5, 5, 7])
    assert float(HistogramLoss(2)(embeddings, labels)) == pytest.approx(0.5)


@given(st.integers(1, 10), st.integers(1, 4), st.integers(1, 30), st.integers(0, 2**16))
def test_matches_reference(rows, classes, bins, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    value = float(HistogramLoss(bins, dtype="float64")(embeddings, labels))
    assert value == pytest.approx(reference(embeddings, labels, bins), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"n_bins": 0}, "`n_bins` must be a whole number, at least 1. Received: n_bins=0"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        HistogramLoss(**params)
