"""Options under which a loss agrees with another library: against plain loops."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.angular import AngularLoss
from anchorage.losses.general_pair_weighting import GeneralPairWeightingLoss
from anchorage.losses.multi_similarity import MultiSimilarityLoss
from anchorage.losses.pnp import PNPLoss
from anchorage.pairs.references import References


def units(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def angular(x, y, positives, negatives, alpha):
    """Mean over the pairs of log(1 + sum exp(4 t (a + p).n - 2 (1 + t) a.p)); n at its own length."""
    t, a, b, costs = np.tan(np.radians(alpha)) ** 2, units(x), units(y), []
    for i, j in zip(*np.nonzero(positives), strict=True):
        far = [4 * t * (a[i] + b[j]) @ y[n] - 2 * (1 + t) * a[i] @ b[j] for n in np.flatnonzero(negatives[i])]
        costs.append(np.log1p(np.sum(np.exp(far))))
    return np.mean(costs) if costs else 0.0


@given(st.integers(1, 9), st.floats(5, 60), st.sampled_from(["batch", "memory", "kept pairs"]), st.integers(0, 2**16))
def test_angular_with_negatives_at_their_own_length(rows, alpha, against, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 3)), rng.integers(0, 3, rows)
    y, others, references = x, labels, None
    if against == "memory":
        y, others = rng.normal(size=(rows + 3, 3)), rng.integers(0, 3, rows + 3)
    same = labels[:, None] == others
    masks = same if against == "memory" else same & ~np.eye(rows, dtype=bool), ~same
    if against != "batch":
        masks = tuple(mask & (rng.random(mask.shape) < 0.8) for mask in masks)
        references = References(*masks, *((y, others) if against == "memory" else ()))
    loss = AngularLoss(alpha, normalize_negatives=False, dtype="float64")
    wanted = angular(x, y, *masks, alpha)
    assert float(loss(x, labels, references=references)) == pytest.approx(wanted, rel=1e-8, abs=1e-10)


def slope(loss, x, labels, **extras):
    """The derivative along a random way: by the tape, and by differences."""
    way, point = np.random.default_rng(9).normal(size=x.shape), tf.Variable(x)
    with tf.GradientTape() as tape:
        value = loss(point, labels, **extras)
    step = 1e-6
    ends = (float(loss(x + sign * step * way, labels, **extras)) for sign in (1, -1))
    rise = (next(ends) - next(ends)) / (2 * step)
    return np.sum(tape.gradient(value, point).numpy() * way), rise


def test_slopes_are_those_of_the_values():
    rng = np.random.default_rng(5)
    x, labels = rng.normal(size=(9, 3)), np.array([0, 0, 0, 0, 1, 1, 1, 2, 3])
    same = labels[:, None] == labels
    kept = tuple(mask & (rng.random(mask.shape) < 0.7) for mask in (same & ~np.eye(9, dtype=bool), ~same))
    loss = AngularLoss(45.0, normalize_negatives=False, dtype="float64")
    for extras in ({}, {"references": References(*kept)}):
        found, wanted = slope(loss, x, labels, **extras)
        assert found == pytest.approx(wanted, rel=1e-6)
    found, wanted = slope(PNPLoss(anneal=0.2, average="with_positives", dtype="float64"), x, labels)
    assert found == pytest.approx(wanted, rel=1e-6)


@given(st.integers(1, 10), st.integers(1, 6), st.integers(0, 2**16))
def test_pnp_averaged_over_anchors_with_a_positive(rows, classes, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    s, costs = units(x) @ units(x).T, []
    for i in range(rows):
        own = np.flatnonzero(labels == labels[i])
        if len(own) > 1:
            far = s[i, labels != labels[i]]
            costs.append(np.mean([np.sum(1 / (1 + np.exp(-(far - s[i, j]) / 0.3))) for j in own]))
    value = float(PNPLoss(anneal=0.3, average="with_positives", dtype="float64")(x, labels))
    assert value == pytest.approx(np.mean(costs) if costs else 0.0, rel=1e-8, abs=1e-10)


def test_general_pair_weighting_without_mining_has_the_slope_of_multi_similarity_without():
    x, labels = np.random.default_rng(0).normal(size=(8, 3)), np.array([0, 0, 0, 1, 1, 2, 2, 3])
    gradients = []
    for loss in (
        GeneralPairWeightingLoss(mining=False, dtype="float64"),
        MultiSimilarityLoss(mining=False, dtype="float64"),
        GeneralPairWeightingLoss(dtype="float64"),
    ):
        point = tf.Variable(x)
        with tf.GradientTape() as tape:
            value = loss(point, labels)
        gradients.append(tape.gradient(value, point).numpy())
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)
    assert np.abs(gradients[0] - gradients[2]).max() > 1e-3
