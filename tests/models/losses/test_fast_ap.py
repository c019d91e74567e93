"""FastAPLoss against a hand-worked number and a plain loop over the batch, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.fast_ap import FastAPLoss


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(x, labels, bins):
    x, n, costs = units(x), len(x), []
    d2 = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    nodes = np.arange(bins + 1) * 4 / bins
    for i in range(n):
        others = [k for k in range(n) if k != i]
        positives = [k for k in others if labels[k] == labels[i]]
        if not positives:
            continue
        shares = {k: np.maximum(0, 1 - np.abs(d2[i, k] - nodes) * bins / 4) for k in others}
        own, all_ = sum(shares[k] for k in positives), sum(shares.values())
        terms = [own[q] * own[: q + 1].sum() / all_[: q + 1].sum() for q in range(bins + 1) if own[q] > 0]
        costs.append(1 - sum(terms) / len(positives))
    return np.mean(costs) if costs else 0.0


def test_hand_worked_batch():
    # one interval: nodes 0 and 4. Anchor 0: positive at d^2 = 2 (halves), negative at 4: h+ (.5, .5), h (.5, 1.5):
    # .5 * 1 + .5 * 1 / 2. Anchor 1: positive and negative at 2: h+ (.5, .5), h (1, 1): .5 * .5 + .5 * 1 / 2.
    embeddings, labels = np.array([[1.0, 0], [0, 1.0], [-1.0, 0]]), np.array([5, 5, 7])
    assert float(FastAPLoss(1)(embeddings, labels)) == pytest.approx(1 - (0.75 + 0.5) / 2, rel=1e-6)


@given(st.integers(1, 10), st.integers(1, 4), st.integers(1, 12), st.integers(0, 2**16))
def test_matches_reference(rows, classes, bins, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    value = float(FastAPLoss(bins, dtype="float64")(embeddings, labels))
    assert value == pytest.approx(reference(embeddings, labels, bins), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"num_bins": 0}, "`num_bins` must be a whole number, at least 1. Received: num_bins=0"),
        ({"reducer": "median"}, "`reducer` must be one of"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        FastAPLoss(**params)
