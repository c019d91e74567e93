"""GeneralPairWeightingLoss: published weights, and gradients equal to those of the losses they stand for."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from models.losses._batch import pair_masks
from models.losses.general_pair_weighting import GeneralPairWeightingLoss
from models.losses.multi_similarity import MultiSimilarityLoss

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
    np.testing.assert_allclose(of_positives, case["expected"]["w_pos"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(of_negatives, case["expected"]["w_neg"], rtol=1e-9, atol=1e-12)
    gradient = gradient_of(lambda x: loss(x, labels), x)
    np.testing.assert_allclose(gradient, case["expected"]["surrogate_grad_embeddings"], rtol=1e-8, atol=1e-11)


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


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"weighting": "all"}, "`weighting` must be one of .*Received: weighting='all'"),
        ({"alpha": 0}, "`alpha` must be positive. Received: alpha=0"),
        ({"eps": -1}, "`eps` must not be negative. Received: eps=-1"),
    ],
)
def test_wrong_values_are_told(params, text):
    with pytest.raises(ValueError, match=text):
        GeneralPairWeightingLoss(**params)
