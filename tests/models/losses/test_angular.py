"""AngularLoss against a hand-worked number and a plain loop over the batch, in float64."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.angular import AngularLoss
from anchorage.pairs.references import References


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(x, y, masks, alpha, reducer):
    square, costs = np.tan(np.radians(alpha)) ** 2, []
    for a, p in zip(*np.nonzero(masks[0]), strict=True):
        logits = [
            4 * square * (x[a] + y[p]) @ y[k] - 2 * (1 + square) * x[a] @ y[p] for k in np.flatnonzero(masks[1][a])
        ]
        costs.append((a, np.log1p(np.sum(np.exp(logits)))))
    if reducer == "sum":
        return sum(cost for _, cost in costs)
    if reducer == "per_anchor":
        own = [[cost for i, cost in costs if i == a] for a in range(len(x))]
        return np.mean([np.mean(each) if each else 0.0 for each in own])
    counted = [cost for _, cost in costs if cost > 0 or reducer == "mean"]
    return np.mean(counted) if counted else 0.0


def masks_of(labels, others):
    same = labels[:, None] == others[None]
    return same & ~np.eye(*same.shape, dtype=bool) if labels is others else same, ~same


def test_hand_worked_batch():
    # 45 degrees: 4 (x_a + x_p).x_n - 4 x_a.x_p = 4 (-1) - 0
    embeddings, labels = np.array([[1.0, 0], [0, 1.0], [-1.0, 0]]), np.array([5, 5, 7])
    assert float(AngularLoss(45.0)(embeddings, labels)) == pytest.approx(np.log1p(np.exp(-4)), rel=1e-5)


@given(
    st.integers(1, 10),
    st.integers(1, 4),
    st.floats(5, 60),
    st.sampled_from(["mean", "avg_non_zero", "sum", "per_anchor"]),
    st.booleans(),
    st.sampled_from(["batch", "memory", "kept pairs"]),
    st.integers(0, 2**16),
)
def test_matches_reference(rows, classes, alpha, reducer, normalize, against, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    loss = AngularLoss(alpha, reducer, normalize, dtype="float64")
    columns, others, references = embeddings, labels, None
    if against == "memory":
        columns, others = rng.normal(size=(rows + 3, 3)), rng.integers(0, classes, rows + 3)
    masks = masks_of(labels, others)
    if against != "batch":
        masks = tuple(mask & (rng.random(mask.shape) < 0.8) for mask in masks)
        references = References(*masks, *((columns, others) if against == "memory" else ()))
    both = (units(embeddings), units(columns)) if normalize else (embeddings, columns)
    wanted = reference(*both, masks, alpha, reducer)
    assert float(loss(embeddings, labels, references=references)) == pytest.approx(wanted, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("against", ["batch", "memory", "kept pairs"])
def test_gradient_is_that_of_all_triplets_written_out(against):
    rng = np.random.default_rng(5)
    embeddings, labels = tf.Variable(rng.normal(size=(9, 3))), np.array([0, 0, 0, 0, 1, 1, 1, 2, 3])
    memory, others = rng.normal(size=(7, 3)), np.array([0, 0, 1, 1, 2, 3, 3])
    masks, references = masks_of(labels, others if against == "memory" else labels), None
    if against != "batch":
        masks = tuple(mask & (rng.random(mask.shape) < 0.7) for mask in masks)
        references = References(*masks, *((memory, others) if against == "memory" else ()))
    with tf.GradientTape() as tape:
        value = AngularLoss(45.0, dtype="float64")(embeddings, labels, references=references)
    gradient = tape.gradient(value, embeddings)
    with tf.GradientTape() as tape:
        x = tf.math.l2_normalize(embeddings, axis=1)
        y = units(memory) if against == "memory" else x
        s = tf.matmul(x, y, transpose_b=True)
        between = tf.matmul(y, y, transpose_b=True)
        logits = 4 * (s[:, None, :] + between[None]) - 4 * s[:, :, None]
        each = tf.math.log1p(tf.reduce_sum(tf.where(masks[1][:, None, :], tf.exp(logits), 0.0), axis=2))
        wanted = tf.reduce_mean(tf.boolean_mask(each, masks[0]))
    assert float(value) == pytest.approx(float(wanted), rel=1e-9)
    np.testing.assert_allclose(gradient, tape.gradient(wanted, embeddings), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"alpha": 90}, "`alpha` must lie in .0, 90., in degrees. Received: alpha=90"),
        ({"reducer": "median"}, "`reducer` must be one of"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        AngularLoss(**params)
