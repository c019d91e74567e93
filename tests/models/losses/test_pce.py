"""PCELoss against the formula in NumPy; its classifier follows cross-entropy."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax

from anchorage.losses.pce import PCELoss

CASES = json.loads((Path(__file__).parents[2] / "data" / "vectors" / "06-unifying-mutual-information.json").read_text())


def with_weights(loss, weights):
    loss.build((None, weights.shape[1]), (None,))
    loss.proxies.assign(weights)
    return loss


@given(st.integers(1, 8), st.integers(1, 4), st.floats(0.2, 2.0), st.integers(0, 2**16))
def test_matches_reference(rows, classes, lam, seed):
    rng = np.random.default_rng(seed)
    z, w, labels = rng.normal(size=(rows, 3)), rng.normal(size=(classes, 3)), rng.integers(0, classes, rows)
    centers = softmax(z @ w.T, axis=1).T @ z / rows
    pairs = sum(z[i] @ z[j] for i in range(rows) for j in range(rows) if labels[i] == labels[j])
    wanted = -pairs / (2 * lam * rows**2) + np.mean(logsumexp(z @ centers.T / lam, axis=1))
    wanted -= np.sum(centers**2) / (2 * lam)
    loss = with_weights(PCELoss(classes, lam, dtype="float64"), w)
    assert float(loss(z, labels)) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_classifier_gets_the_gradient_of_cross_entropy_alone():
    rng = np.random.default_rng(0)
    z, w, labels = rng.normal(size=(5, 3)), rng.normal(size=(3, 3)), np.array([0, 1, 2, 0, 1])
    loss = with_weights(PCELoss(3, dtype="float64"), w)
    with tf.GradientTape() as tape:
        value = loss(z, labels)
    wanted = (softmax(z @ w.T, axis=1) - np.eye(3)[labels]).T @ z / 5
    np.testing.assert_allclose(tape.gradient(value, loss.proxies.value), wanted, rtol=1e-9)


def parts(z, w, labels, lam):
    """The two parts cross-entropy without bias splits into, for any `lam`."""
    square = lam / 2 * np.sum(w**2)
    return -np.mean(np.sum(w[labels] * z, axis=1)) + square, np.mean(logsumexp(z @ w.T, axis=1)) - square


def parts_of_loss(z, w, labels, lam):
    """Tightness, by its sum over pairs, and contrast of PCE: what is left of the loss."""
    loss = with_weights(PCELoss(len(w), lam, train_classifier=False, dtype="float64"), w)
    tightness = -sum(z[i] @ z[j] for i in range(len(z)) for j in range(len(z)) if labels[i] == labels[j])
    tightness /= 2 * lam * len(z) ** 2
    return tightness, float(loss(z, labels)) - tightness


def test_published_terms():
    # Of the loss 1.0381667512 the two parts are these.
    case = next(case for case in CASES if case["name"] == "pce_lambda_1_stopgrad_p")
    loss = with_weights(
        PCELoss(len(case["inputs"]["weights"]["W"]), dtype="float64"), np.array(case["inputs"]["weights"]["W"])
    )
    terms = loss.terms(np.array(case["inputs"]["embeddings"]), np.array(case["inputs"]["labels"]))
    np.testing.assert_allclose(terms, [-0.1090277778, 1.1471945290], rtol=1e-9)


def test_tightness_is_the_least_that_any_classifier_gives():
    rng = np.random.default_rng(1)
    z, labels, lam = rng.normal(size=(7, 3)), np.array([0, 0, 1, 1, 2, 3, 3]), 0.6
    tightness, _ = parts_of_loss(z, rng.normal(size=(4, 3)), labels, lam)
    assert all(parts(z, rng.normal(size=(4, 3)), labels, lam)[0] > tightness for _ in range(50))
    means = np.array([z[labels == k].sum(axis=0) for k in range(4)]) / (lam * len(z))
    assert parts(z, means, labels, lam)[0] == pytest.approx(tightness, rel=1e-12)


def test_contrast_is_that_of_a_classifier_at_rest():
    # At w_k = c_k(w) / lam the contrastive part of cross-entropy is that of PCE: 1.1525474739 on the published batch.
    case = next(case for case in CASES if case["name"] == "pce_lambda_1_stopgrad_p")
    z, labels = np.array(case["inputs"]["embeddings"]), np.array(case["inputs"]["labels"])
    w = np.array(case["inputs"]["weights"]["W"])
    for _ in range(2000):
        w = softmax(z @ w.T, axis=1).T @ z / len(z)
    contrast = parts_of_loss(z, w, labels, 1.0)[1]
    assert contrast == pytest.approx(parts(z, w, labels, 1.0)[1], rel=1e-10)
    assert contrast == pytest.approx(1.1525474739, rel=1e-9)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"num_classes": 0}, "`num_classes` must be a whole number, at least 1"),
        ({"num_classes": 2, "lam": 0}, "`lam` must be positive"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        PCELoss(**params)
