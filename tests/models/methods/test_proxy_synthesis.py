"""Proxy Synthesis: the published cases, what a mix is, which losses take it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anchorage.errors import UsageError
from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.methods import create_methods
from anchorage.methods.method import Step
from anchorage.methods.proxy_synthesis import ProxySynthesis, mix_neighbors

FILE = "16-novel-classes"
CLASSES, DIM = 5, 3
SOFTMAX = {"normalize": True, "normalize_weight": True, "use_bias": False}


def base_loss(name, scale, proxies):
    proxies = np.array(proxies)
    if name == "softmax":
        params = {**SOFTMAX, "temperature": 1 / scale}
    else:
        params = {"include_positive": True, "scale_x": scale**0.5, "scale_p": scale**0.5}
    loss = create_loss(name, {**params}, num_classes=len(proxies))
    loss = type(loss).from_config({**loss.get_config(), "dtype": "float64"})
    loss.build((None, proxies.shape[1]), (None,))
    loss.proxies.assign(proxies)
    return loss


def loss_of_case(case, name):
    """Value, embeddings and proxies seen, and gradients, of a case under one of the base losses."""
    inputs, params = case["inputs"], case["params"]
    loss = base_loss(name, params["scale"], inputs["proxies"])
    rows, labels = tf.Variable(np.array(inputs["embeddings"])), tf.constant(inputs["labels"])
    with tf.GradientTape() as tape:
        drop = params.get("drop_same_class", True)
        more, proxies = mix_neighbors(
            rows, labels, tf.convert_to_tensor(loss.proxies), params["lam"], params["mu"], drop
        )
        all_rows = tf.concat([rows, more], 0)
        all_labels = tf.concat([labels, len(inputs["proxies"]) + tf.range(len(more))], 0)
        value = loss(all_rows, all_labels, novel_proxies=proxies)
    gradients = tape.gradient(value, [rows, loss.proxies.value])
    return float(value), (all_rows, tf.concat([inputs["proxies"], proxies], 0), all_labels), gradients


@pytest.mark.parametrize("setting", ["lam0.3_mu1", "lam0.8_mu0.5"])
@pytest.mark.parametrize(("kind", "name"), [("norm_softmax", "softmax"), ("nca_prob", "proxy_nca")])
def test_value_and_gradients_as_published(case, setting, kind, name):
    case = case(FILE, f"proxy_synthesis_{setting}_{kind}")
    value, (rows, proxies, labels), gradients = loss_of_case(case, name)
    expected = case["expected"]
    np.testing.assert_allclose(rows, expected["all_embeddings"], atol=1e-12)
    np.testing.assert_allclose(proxies, expected["all_proxies"], atol=1e-12)
    np.testing.assert_array_equal(labels, expected["all_labels"])
    assert value == pytest.approx(expected["loss"], rel=1e-10)
    np.testing.assert_allclose(gradients[0], expected["grad_embeddings"], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(gradients[1], expected["grad_proxies"], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("drop", [True, False])
def test_neighbors_of_one_class_as_published(case, drop):
    case = case(FILE, f"proxy_synthesis_same_class_neighbours_drop_{drop}")
    value, (_, _, labels), gradients = loss_of_case(case, "softmax")
    np.testing.assert_array_equal(labels, case["expected"]["all_labels"])
    assert value == pytest.approx(case["expected"]["loss"], rel=1e-10)
    norms = [np.linalg.norm(gradient) for gradient in gradients]
    np.testing.assert_allclose(norms, case["expected"]["grad_norms"], rtol=1e-9)


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    rows, proxies = (random.normal(size=(count, DIM)) for count in (6, CLASSES))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), np.array([0, 1, 2, 3, 4, 1]), proxies


def angle(a, b):
    return np.arccos(np.clip(np.sum(a * b, axis=1), -1, 1))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_mixes_lie_between_their_parents(batch):
    rows, labels, proxies = batch
    parents = unit(proxies[labels])
    for mixing, expected in ((1.0, (rows, parents)), (0.0, (np.roll(rows, 1, 0), np.roll(parents, 1, 0)))):
        for found, wanted in zip(mix_neighbors(rows, labels, proxies, mixing), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-12)
    _, mixed = mix_neighbors(rows, labels, proxies, 0.3)
    apart = angle(parents, np.roll(parents, 1, 0))
    for parent in (parents, np.roll(parents, 1, 0)):
        assert (angle(mixed, parent) <= apart + 1e-9).all()
    np.testing.assert_allclose(np.linalg.norm(mixed, axis=1), 1.0)


def test_the_other_neighbor_with_the_other_share_gives_the_same_classes(batch):
    rows, labels, proxies = batch
    forward = mix_neighbors(rows, labels, proxies, 0.3)
    backward = mix_neighbors(rows[::-1].copy(), labels[::-1].copy(), proxies, 0.7)
    for ours, theirs in zip(forward, backward, strict=True):
        np.testing.assert_allclose(np.sort(ours, axis=0), np.sort(theirs, axis=0), atol=1e-12)


def test_opposite_rows_have_no_mix():
    rows = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    mixed, proxies = mix_neighbors(rows, np.arange(3), np.eye(3), 0.5)
    assert (mixed.shape, proxies.shape) == ((2, 2), (2, 3))
    assert np.isfinite(mixed).all()


def learner_of(loss, params=None, **method):
    encoder = keras.Sequential([keras.Input((DIM,)), keras.layers.Dense(DIM), keras.layers.UnitNormalization()])
    [synthesis] = create_methods([{"name": "proxy_synthesis", "params": method}], num_classes=CLASSES, seed=1)
    learner = MetricLearner(encoder, create_loss(loss, params, num_classes=CLASSES), [synthesis])
    learner.compile("sgd")
    learner.build((None, DIM))
    return learner


@pytest.mark.parametrize(
    ("loss", "params"),
    [
        pytest.param("softmax", {**SOFTMAX, "label_smoothing": 0.1}, marks=pytest.mark.thorough),
        pytest.param("proxy_nca", {"include_positive": True, "label_smoothing": 0.1}, marks=pytest.mark.thorough),
        ("multi_proxy_anchor", {"proxies_per_class": 1}),
        pytest.param("soft_triple", {"centers_per_class": 1}, marks=pytest.mark.thorough),
    ],
)
def test_losses_with_proxies_train_compiled_and_keep_their_size(batch, loss, params):
    rows, labels, _ = batch
    learner = learner_of(loss, params)
    shape = tuple(learner.loss_layer.proxies.shape)
    learner.run_eagerly = True
    eager = learner.compute_loss(rows, labels, learner(rows))
    learner = learner_of(loss, params)
    compiled = tf.function(lambda: learner.compute_loss(rows, labels, learner(rows)))()
    assert np.isfinite(float(eager))
    assert np.isfinite(float(compiled))
    learner.train_on_batch(rows, labels)
    assert tuple(learner.loss_layer.proxies.shape) == shape == (CLASSES, DIM)
    with pytest.raises(ValueError, match="labels from 0 to 5"):
        learner.compute_loss(rows, np.array([0, 1, 2, 3, 4, 5]), learner(rows))


def test_more_classes_in_proxy_anchor_by_hand():
    """Two classes and a novel one, each embedding on a proxy: cosines 1 and 0."""
    loss = create_loss("multi_proxy_anchor", {"proxies_per_class": 1, "alpha": 2.0, "delta": 0.1}, num_classes=2)
    loss.build((None, 3), (None,))
    loss.proxies.assign(np.eye(3)[:2])
    value = loss(tf.eye(3), tf.range(3), novel_proxies=tf.eye(3)[2:])
    pull, push = np.log(1 + np.exp(-2 * 0.9)), np.log(1 + 2 * np.exp(2 * 0.1))
    assert float(value) == pytest.approx(pull + push, rel=1e-6)


def test_without_mixes_the_loss_is_the_base_loss(batch):
    rows, labels, _ = batch
    learner = learner_of("softmax", SOFTMAX, ratio=0.0)
    value = float(learner.compute_loss(rows, labels, learner(rows), training=False))
    assert float(learner.compute_loss(rows, labels, learner(rows))) == pytest.approx(value, rel=1e-6)


def test_what_the_loss_sees(batch):
    rows, labels, _ = batch
    learner = learner_of("softmax", SOFTMAX, ratio=0.5, drop_same_class=False, shuffle=False)

    def inner(step):
        inner.step = step
        return tf.constant(0.0)

    learner.methods[0].loss(Step(None, {"embeddings": tf.constant(rows)}, tf.constant(labels), True), inner)
    assert inner.step.embeddings.shape == (9, DIM)
    np.testing.assert_array_equal(inner.step.labels, [*labels, 5, 6, 7])
    assert inner.step.outputs["novel_proxies"].shape == (3, DIM)


def test_shares_are_drawn_from_beta():
    shares = learner_of("softmax", SOFTMAX).methods[0].draw_mixing((10_000,)).numpy()
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.05)


@pytest.mark.parametrize(
    ("loss", "params"), [("contrastive", {}), ("multi_proxy_anchor", {"proxies_per_class": 2}), ("arcface", {})]
)
def test_losses_that_cannot_take_novel_classes_are_refused(loss, params):
    with pytest.raises(UsageError, match="E_METHOD_LOSS"):
        learner_of(loss, params)


@pytest.mark.parametrize(("name", "params"), [("softmax", {}), ("proxy_nca", {"proxies_per_class": 2})])
def test_losses_say_what_novel_classes_need(name, params):
    loss = create_loss(name, params, num_classes=3)
    with pytest.raises(ValueError, match="novel"):
        loss(tf.eye(3), tf.range(3), novel_proxies=tf.eye(3))


@pytest.mark.parametrize("params", [{"alpha": 0.0}, {"ratio": 1.5}])
def test_wrong_parameters_are_named(params):
    with pytest.raises(ValueError, match=f"`{next(iter(params))}`"):
        ProxySynthesis(CLASSES, **params)


@pytest.mark.thorough
def test_goes_on_as_if_never_stopped(goes_on, settings):
    arguments = settings(epochs=4, steps_per_epoch=25, methods=[{"name": "proxy_synthesis"}])
    learner = goes_on(arguments, stops=[50])
    assert tuple(learner.loss_layer.proxies.shape) == (8, 8)
