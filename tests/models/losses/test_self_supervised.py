"""SelfSupervisedLoss against plain loops over the two views."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.nt_xent import NTXentLoss
from anchorage.losses.self_supervised import SelfSupervisedLoss
from anchorage.losses.vicreg import VICRegLoss


def reference(anchors, others, own, temperature):
    """Mean cost of the positive `own[i]` of each anchor, `others` without the anchor itself."""
    costs = []
    for row, candidates, index in zip(anchors, others, own, strict=True):
        e = np.exp(candidates @ row / temperature)
        costs.append(-np.log(e[index] / e.sum()))
    return np.mean(costs)


@pytest.fixture
def views():
    x = np.random.default_rng(4).normal(size=(2, 5, 3))
    return x / np.linalg.norm(x, axis=2, keepdims=True)


def test_both_views_are_anchors(views):
    rows = views.reshape(10, 3)
    others = [np.delete(rows, i, axis=0) for i in range(10)]
    own = [i + 5 - 1 if i < 5 else i - 5 for i in range(10)]
    inner = NTXentLoss(temperature=0.3)
    value = SelfSupervisedLoss(inner, dtype="float64")(rows, np.tile(np.arange(5), 2))
    assert float(value) == pytest.approx(reference(rows, others, own, 0.3), rel=1e-9)


def test_first_views_against_second_views(views):
    inner = NTXentLoss(temperature=0.3)
    loss = SelfSupervisedLoss(inner, symmetric=False, dtype="float64")
    value = loss(views.reshape(10, 3), np.tile(np.arange(5), 2))
    assert float(value) == pytest.approx(reference(views[0], [views[1]] * 5, range(5), 0.3), rel=1e-9)


@given(st.integers(1, 6), st.booleans(), st.floats(0.1, 2.0), st.integers(0, 2**16))
def test_matches_reference_with_views_in_any_order(items, symmetric, temperature, seed):
    rng = np.random.default_rng(seed)
    rows, labels = rng.normal(size=(2 * items, 3)), rng.permutation(np.tile(np.arange(items), 2))
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    first, second = (np.array([np.flatnonzero(labels == item)[place] for item in range(items)]) for place in (0, 1))
    if symmetric:
        others = [np.delete(units, i, axis=0) for i in range(2 * items)]
        twins = [np.flatnonzero(np.delete(labels, i) == labels[i])[0] for i in range(2 * items)]
        wanted = reference(units, others, twins, temperature)
    else:
        wanted = reference(units[first], [units[second]] * items, range(items), temperature)
    inner = NTXentLoss(temperature=temperature)
    loss = SelfSupervisedLoss(inner, symmetric, dtype="float64")
    assert float(loss(rows, 5 * labels)) == pytest.approx(wanted, rel=1e-8, abs=1e-10)


def test_loss_that_is_not_over_pairs_is_refused():
    with pytest.raises(ValueError, match="`loss` must be a loss over pairs"):
        SelfSupervisedLoss(VICRegLoss())
