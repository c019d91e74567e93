"""Sums over classes: taken in parts they are those over all at once, and what joins the proxies of a class."""

import keras
import numpy as np
import pytest
from backends import slopes_of
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses import LOSSES, create_loss
from anchorage.proxies import logits
from anchorage.proxies.logits import class_logits, nearest, softmax_weighted, target_and_others, target_logits

ROWS, CLASSES, DIM = 6, 11, 4
LABELS = np.array([0, 0, 3, 10, 9, 3])
WITH_CLASSES = {
    "arcface": {"sub_centers": 3},
    "cosface": {},
    "multi_proxy_anchor": {"proxies_per_class": 2},
    "nivmf": {"metric": "nivmf", "temp": 0.5, "guidance": 0.1},
    "proxy_nca": {"proxies_per_class": 2, "include_positive": True, "label_smoothing": 0.1},
    "soft_triple": {"centers_per_class": 2, "tau": 0.2},
    "softmax": {"label_smoothing": 0.1, "normalize": True, "temperature": 0.5},
    "sphereface": {"weight_lengths": True},
}


def make(name):
    loss = LOSSES[name](CLASSES, **WITH_CLASSES[name], dtype="float64")
    loss.build((ROWS, DIM), (ROWS,))
    rng = np.random.default_rng(3)
    for weight in loss.trainable_weights:
        weight.assign(rng.uniform(0.5, 2.0, weight.shape) * rng.choice([-1.0, 1.0], weight.shape))
    return loss


@pytest.fixture
def rows():
    return 3 * np.random.default_rng(1).normal(size=(ROWS, DIM))


@pytest.fixture
def take_parts(monkeypatch):
    def take(held):
        monkeypatch.setattr(logits, "_MAX_ENTRIES", 0)
        monkeypatch.setattr(logits, "_MIN_CHUNK", 1)
        monkeypatch.setattr(logits, "_MAX_CHUNK_ENTRIES", held)

    return take


@pytest.mark.parametrize("held", [1, 15 * ROWS, 30 * ROWS, 1000 * ROWS])  # one class at a time, a few, half, all
@pytest.mark.parametrize("name", WITH_CLASSES)
def test_parts_give_value_and_gradients_of_the_whole(name, held, rows, take_parts):
    value, gradients = slopes_of(make(name))(rows, LABELS)
    take_parts(held)
    found, found_gradients = slopes_of(make(name))(rows, LABELS)
    assert found == pytest.approx(value, rel=1e-9)
    for gradient, wanted in zip(found_gradients, gradients, strict=True):
        assert np.abs(wanted).max() > 0
        np.testing.assert_allclose(gradient, wanted, rtol=1e-7, atol=1e-9 * np.abs(wanted).max())


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX compiles above, PyTorch runs as it is")
@pytest.mark.parametrize("name", ["arcface", "multi_proxy_anchor", pytest.param("nivmf", marks=pytest.mark.thorough)])
def test_parts_compile(name, rows, take_parts):
    import tensorflow as tf

    value, (of_rows, *_) = slopes_of(make(name))(rows, LABELS)
    take_parts(15 * ROWS)
    loss = make(name)

    def measure(rows, labels):
        with tf.GradientTape() as tape:
            tape.watch(rows)
            value = loss(rows, labels)
        return value, tape.gradient(value, rows)

    for xla in (False, True):  # one trace for both would not do: XLA needs loops of its own
        found, gradient = tf.function(measure, jit_compile=xla)(tf.constant(rows), tf.constant(LABELS))
        assert float(found) == pytest.approx(value, rel=1e-6)
        np.testing.assert_allclose(gradient, of_rows, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", WITH_CLASSES)
def test_one_class_costs_the_same_in_parts(name, rows, take_parts):
    loss = create_loss(name, WITH_CLASSES[name], num_classes=1)
    value = float(loss(rows.astype("float32"), np.zeros(ROWS, "int32")))
    take_parts(1)
    assert float(loss(rows.astype("float32"), np.zeros(ROWS, "int32"))) == pytest.approx(value)


@given(st.integers(1, 4), st.floats(0.01, 10.0), st.integers(0, 2**16))
def test_softmax_weighted_lies_between_farthest_and_nearest_proxy(k, gamma, seed):
    rng = np.random.default_rng(seed)
    x, proxies = rng.normal(size=(5, DIM)), rng.normal(size=(3, k, DIM))
    logits = np.einsum("nd,ckd->nck", x, proxies)

    def found(gamma):
        return np.array(class_logits(x, proxies, softmax_weighted(gamma)))

    assert np.all(found(gamma) >= logits.min(axis=2) - 1e-12)
    assert np.all(found(gamma) <= logits.max(axis=2) + 1e-12)
    np.testing.assert_allclose(found(1e-6), logits.max(axis=2), atol=1e-4)
    np.testing.assert_allclose(found(1e9), logits.mean(axis=2), atol=1e-7)


@pytest.mark.parametrize("join", [nearest, softmax_weighted(0.3)])
def test_own_logits_are_those_among_all(join, rows):
    rows = keras.ops.convert_to_tensor(rows)
    proxies = keras.ops.convert_to_tensor(np.random.default_rng(2).normal(size=(CLASSES, 3, DIM)))
    found = np.array(target_logits(rows, proxies, keras.ops.convert_to_tensor(LABELS), join))
    np.testing.assert_allclose(found, np.array(class_logits(rows, proxies, join))[np.arange(ROWS), LABELS], rtol=1e-12)


@pytest.mark.parametrize("classes", [12, 13])  # as many numbers as the own proxies of an item have, and more
def test_own_and_others_are_the_same_either_way(classes, rows):
    rows, labels = (keras.ops.convert_to_tensor(x) for x in (rows, LABELS.astype("int32")))
    proxies = keras.ops.convert_to_tensor(np.random.default_rng(2).normal(size=(classes, 3, DIM)))
    own, others = (np.array(x) for x in target_and_others(rows, proxies, labels, nearest))
    logits = np.array(class_logits(rows, proxies, nearest))
    mine = np.arange(classes) == LABELS[:, None]
    np.testing.assert_allclose(own, logits[mine], rtol=1e-12)
    np.testing.assert_allclose(others, np.log(np.sum(np.where(mine, 0.0, np.exp(logits)), axis=1)), rtol=1e-12)
