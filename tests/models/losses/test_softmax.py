"""SoftmaxLoss against NumPy, and the identities of the paper it comes from."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

from anchorage.learner import MetricLearner
from anchorage.losses.softmax import SoftmaxLoss


def with_weights(loss, weights, bias=None):
    loss.build((None, weights.shape[1]), (None,))
    loss.proxies.assign(weights)
    if bias is not None:
        loss.bias.assign(bias)
    return loss


@given(st.integers(1, 8), st.integers(2, 5), st.floats(0.0, 0.5), st.floats(0.05, 2.0), st.integers(0, 2**16))
def test_matches_reference(rows, classes, smoothing, temperature, seed):
    rng = np.random.default_rng(seed)
    x, w, b = rng.normal(size=(rows, 3)), rng.normal(size=(classes, 3)), rng.normal(size=classes)
    labels = rng.integers(0, classes, rows)
    target = np.full((rows, classes), smoothing / (classes - 1))
    target[np.arange(rows), labels] = 1 - smoothing
    wanted = -np.mean(np.sum(target * log_softmax((x @ w.T + b) / temperature, axis=1), axis=1))
    loss = with_weights(SoftmaxLoss(classes, smoothing, temperature, dtype="float64"), w, b)
    assert float(loss(x, labels)) == pytest.approx(wanted, rel=1e-9)


def test_reducer_takes_the_costs_of_the_rows():
    x, w, labels = np.eye(2), np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 1])
    loss = SoftmaxLoss(2, use_bias=False, reducer={"name": "class_weighted", "weights": [1.0, 3.0]}, dtype="float64")
    wanted = (np.log1p(np.exp(-2)) + 3 * np.log1p(np.exp(-1))) / 2
    assert float(with_weights(loss, w)(x, labels)) == pytest.approx(wanted, rel=1e-9)


def test_bound_on_the_mutual_information_is_shown():
    # Label smoothing and the constant of the target do not enter.
    x, labels = np.random.default_rng(3).normal(size=(6, 3)).astype("float32"), np.array([0, 1, 2, 0, 1, 2])
    w, b = np.random.default_rng(4).normal(size=(3, 3)), np.zeros(3)
    loss = with_weights(SoftmaxLoss(3, 0.1, kl=True, watch=True), w, b)
    learner = MetricLearner(
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, kernel_initializer="identity")]), loss
    )
    learner.compile(optimizer=keras.optimizers.SGD(0.0))
    shown = learner.fit(x, labels, batch_size=6, epochs=1, verbose=0).history["mi_lower_bound"]
    wanted = np.log(3) + np.mean(log_softmax(x @ w.T, axis=1)[np.arange(6), labels])
    assert shown == pytest.approx([wanted], rel=1e-5)


def test_kl_form_is_zero_where_the_answer_is_the_target():
    # a bias of log t and no weights answer with the target of class 0
    target = np.array([0.9, 0.05, 0.05])
    loss = with_weights(SoftmaxLoss(3, 0.1, kl=True, dtype="float64"), np.zeros((3, 2)), np.log(target))
    assert float(loss(np.ones((2, 2)), np.array([0, 0]))) == pytest.approx(0.0, abs=1e-12)


def test_splits_into_tightness_and_contrast():
    rng = np.random.default_rng(0)
    x, w, labels, lam = rng.normal(size=(6, 3)), rng.normal(size=(4, 3)), np.array([0, 0, 1, 1, 2, 3]), 0.7
    square = lam / 2 * np.sum(w**2)
    tight = -np.mean(np.sum(w[labels] * x, axis=1)) + square
    contrast = np.mean(logsumexp(x @ w.T, axis=1)) - square
    loss = with_weights(SoftmaxLoss(4, use_bias=False, dtype="float64"), w)
    assert float(loss(x, labels)) == pytest.approx(tight + contrast, rel=1e-9)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"num_classes": 0}, "`num_classes` must be a whole number, at least 1. Received: num_classes=0"),
        ({"num_classes": 3, "label_smoothing": 1}, r"`label_smoothing` must lie in \[0, 1\)"),
        ({"num_classes": 3, "temperature": -1}, "`temperature` must be positive. Received: temperature=-1"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        SoftmaxLoss(**params)
