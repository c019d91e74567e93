"""GeneralPairWeightingLoss: published weights, and gradients equal to those of the losses they stand for."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.general_pair_weighting import WEIGHTINGS, GeneralPairWeightingLoss
from anchorage.losses.multi_similarity import MultiSimilarityLoss
from anchorage.pairs.masks import pair_masks

CASES = json.loads((Path(__file__).parents[2] / "data" / "vectors" / "11-multi-similarity.json").read_text())
LABELS = np.array([0, 0, 0, 1, 1, 2, 2, 3])


def gradient_of(function, x):
    x = tf.Variable(x)
    with tf.GradientTape() as tape:
        value = function(x)
    return tape.gradient(value, x).numpy()


def test_published_weights():
    case = next(case for case in CASES if case["name"] == "gpw_weights_repo_setting")
    params = {name: case["params"][name] for name in ("alpha", "beta", "base", "eps")}
    loss = GeneralPairWeightingLoss(**params, dtype="float64")
    x, labels = np.array(case["inputs"]["embeddings"]), np.array(case["inputs"]["labels"])
    of_positives, of_negatives = loss.pair_weights(np.array(case["expected"]["similarity"]), *pair_masks(labels))
    for mask, weights in (("positive_mask", of_positives), ("negative_mask", of_negatives)):
        np.testing.assert_array_equal(np.array(weights) > 0, case["expected"][mask])
    np.testing.assert_allclose(of_positives, case["expected"]["w_pos"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(of_negatives, case["expected"]["w_neg"], rtol=1e-9, atol=1e-12)
    gradient = gradient_of(lambda x: loss(x, labels), x)
    np.testing.assert_allclose(gradient, case["expected"]["surrogate_grad_embeddings"], rtol=1e-8, atol=1e-11)


def weights_of(weighting, positives, negatives, alpha, beta, base, eps):
    """Weights of one anchor's pairs, from two lists of cosines."""
    if weighting == "contrastive":
        return np.ones(len(positives)), (negatives > base).astype(float)
    if weighting == "binomial_deviance":
        return (
            alpha / max(len(positives), 1) / (1 + np.exp(-alpha * (base - positives))),
            beta / max(len(negatives), 1) / (1 + np.exp(-beta * (negatives - base))),
        )
    if weighting == "lifted_structure":
        tops = [np.log(np.sum(np.exp(x))) if len(x) else 0.0 for x in (-positives, negatives)]
        on = base + sum(tops) > 0
        return on * np.exp(-positives - tops[0]), on * np.exp(negatives - tops[1])
    kept = (
        positives < np.max(negatives, initial=-np.inf) + eps,
        negatives > np.min(positives, initial=np.inf) - eps,
    )
    low, high = np.exp(-alpha * (positives - base)) * kept[0], np.exp(beta * (negatives - base)) * kept[1]
    return low / (1 + low.sum()), high / (1 + high.sum())


@given(
    st.integers(1, 10),
    st.integers(1, 4),
    st.sampled_from(WEIGHTINGS),
    st.floats(0.5, 5.0),
    st.floats(1.0, 50.0),
    st.floats(-0.5, 1.0),
    st.floats(0.0, 0.5),
    st.integers(0, 2**16),
)
def test_matches_reference(rows, classes, weighting, alpha, beta, base, eps, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    s, wanted = units @ units.T, 0.0
    for i in range(rows):
        same = labels == labels[i]
        positives, negatives = s[i, same & (np.arange(rows) != i)], s[i, ~same]
        of_positives, of_negatives = weights_of(weighting, positives, negatives, alpha, beta, base, eps)
        wanted += (of_negatives @ negatives - of_positives @ positives) / rows
    loss = GeneralPairWeightingLoss(weighting, alpha, beta, base, eps, dtype="float64")
    assert float(loss(x, labels)) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def written_out(weighting):
    """The loss behind the weights, over the whole batch, from cosines and the masks of positives and negatives."""
    if weighting == "contrastive":
        return lambda s, p, n: tf.reduce_sum(n * tf.nn.relu(s - 0.5) - p * s)
    if weighting == "binomial_deviance":
        return lambda s, p, n: tf.reduce_sum(
            tf.reduce_sum(p * tf.math.softplus(2 * (0.5 - s)), 1) / tf.maximum(tf.reduce_sum(p, 1), 1)
            + tf.reduce_sum(n * tf.math.softplus(50 * (s - 0.5)), 1) / tf.maximum(tf.reduce_sum(n, 1), 1)
        )
    if weighting == "triplet":
        return lambda s, p, n: tf.reduce_sum(
            p[:, :, None] * n[:, None, :] * tf.nn.relu(s[:, None, :] - s[:, :, None] + 0.1)
        )

    def lifted(s, p, n):
        # an anchor without positives has 0 in place of the log of an empty sum
        some = tf.reduce_any(p > 0, axis=1)
        near = tf.where(some, tf.math.log(tf.where(some, tf.reduce_sum(p * tf.exp(-s), 1), 1.0)), 0.0)
        return tf.reduce_sum(tf.nn.relu(0.5 + near + tf.math.log(tf.reduce_sum(n * tf.exp(s), 1))))

    return lifted


@pytest.mark.parametrize("weighting", ["contrastive", "binomial_deviance", "lifted_structure", "triplet"])
def test_gradient_is_that_of_the_loss_behind(weighting):
    x = np.random.default_rng(0).normal(size=(8, 3))
    positives, negatives = (tf.cast(mask, tf.float64) for mask in pair_masks(LABELS))

    def behind(x):
        z = tf.math.l2_normalize(x, axis=1)
        return written_out(weighting)(z @ tf.transpose(z), positives, negatives) / 8

    loss = GeneralPairWeightingLoss(weighting, dtype="float64")
    ours = gradient_of(lambda x: loss(x, LABELS), x)
    np.testing.assert_allclose(ours, gradient_of(behind, x), rtol=1e-8, atol=1e-10)


def test_triplet_weights_count_violating_triplets():
    # Anchor 0: positives at 0.9 and 0.4, negatives at 0.85, 0.45 and -0.5; those above 0.8 and 0.3 violate.
    s = np.array([[1.0, 0.9, 0.4, 0.85, 0.45, -0.5]])
    positives, negatives = np.array([[0, 1, 1, 0, 0, 0]], bool), np.array([[0, 0, 0, 1, 1, 1]], bool)
    near, far = GeneralPairWeightingLoss("triplet").pair_weights(s.astype("float32"), positives, negatives)
    np.testing.assert_array_equal(near, [[0, 1, 2, 0, 0, 0]])
    np.testing.assert_array_equal(far, [[0, 0, 0, 2, 1, 0]])


def test_gradient_is_that_of_multi_similarity():
    x = np.random.default_rng(0).normal(size=(8, 3))
    ours, theirs = (
        gradient_of(lambda x, loss=loss: loss(x, LABELS), x)
        for loss in (GeneralPairWeightingLoss(dtype="float64"), MultiSimilarityLoss(dtype="float64"))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("eps", [0.1, 2.1])
def test_weights_lie_between_0_and_1_and_follow_the_cosines(eps):
    """A pair weighs the more the farther a positive is off, the nearer a negative."""
    x, labels = np.random.default_rng(2).normal(size=(12, 3)), np.arange(12) % 3
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    s = x @ x.T
    weights = GeneralPairWeightingLoss(beta=5.0, eps=eps, dtype="float64").pair_weights(s, *pair_masks(labels))
    for kind, slope in zip(map(np.array, weights), (-1, 1), strict=True):
        assert np.all((kind >= 0) & (kind < 1))
        for row, cosines in zip(kind, s, strict=True):
            kept = row > 0
            assert np.all(np.diff(row[kept][np.argsort(cosines[kept])]) * slope > 0)
    assert np.count_nonzero(weights) > 50


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"weighting": "all"}, "`weighting` must be one of .*Received: weighting='all'"),
        ({"alpha": 0}, "`alpha` must be positive. Received: alpha=0"),
        ({"eps": -1}, "`eps` must not be negative. Received: eps=-1"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        GeneralPairWeightingLoss(**params)
