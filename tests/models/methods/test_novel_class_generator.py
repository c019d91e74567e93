"""The generator of novel classes: its worked cases, where gradients go and where not, its warm-up."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.methods import create_methods
from anchorage.methods.method import Step
from anchorage.methods.novel_class_generator import NovelClassGenerator, statistics_distance
from anchorage.training.optimizers import create_optimizer

FILE = "16-novel-classes"
CLASSES, DIM = 5, 3
SOFTMAX = {"normalize": True, "normalize_weight": True, "use_bias": False}


def generator_of_case(case):
    """The method with the weights of a case, and the case's inputs as arrays."""
    inputs = {key: np.array(value) for key, value in case["inputs"].items()}
    params = {key: case["params"][key] for key in ("scale", "delta", "w_real", "w_div") if key in case["params"]}
    method = NovelClassGenerator(3, 2, 1, noise_size=2, hidden=3, dtype="float64", **params)
    method.build_generator()
    weights = [inputs[key] for key in ("W1", "b1", "W2", "b2")]
    for variable, value in zip(method.generator.trainable_variables, weights, strict=True):
        variable.assign(value)
    return method, inputs


def test_losses_of_the_generator_as_worked_out(case):
    case = case(FILE, "generator_losses_ours")
    method, inputs = generator_of_case(case)
    expected = case["expected"]
    q = inputs["proxies"][inputs["labels"]]
    np.testing.assert_allclose(method.generator(q, inputs["z"]), expected["generated"], atol=1e-12)
    arguments = [tf.Variable(inputs["real_embeddings"]), inputs["labels"], tf.Variable(inputs["proxies"])]
    arguments += [inputs["z"], inputs["z2"]]
    with tf.GradientTape(persistent=True) as tape:
        parts = method.generator_losses(*arguments)
        total = method.generator_loss(*arguments)
    wanted = [expected[key] for key in ("loss_cls", "loss_real", "loss_div")]
    np.testing.assert_allclose([float(part) for part in parts], wanted, rtol=1e-9)
    assert float(total) == pytest.approx(expected["total"], rel=1e-10)
    gradients = tape.gradient(total, [v.value for v in method.generator.trainable_variables])
    norms = [np.linalg.norm(gradient) for gradient in gradients]
    np.testing.assert_allclose(norms, expected["grad_norms_W1_b1_W2_b2"], rtol=1e-8)
    assert tape.gradient(total, [arguments[0], arguments[2]]) == [None, None]  # the network and the proxies


def test_step_of_the_embeddings_as_worked_out(case):
    case = case(FILE, "embedding_step_with_novel_classes_ours")
    method, inputs = generator_of_case(case)
    expected = case["expected"]
    loss = create_loss("softmax", {**SOFTMAX, "temperature": 0.1}, num_classes=3)
    loss = type(loss).from_config({**loss.get_config(), "dtype": "float64"})
    loss.build((None, 2), (None,))
    loss.proxies.assign(inputs["proxies"])
    embeddings = tf.Variable(inputs["embeddings"])
    with tf.GradientTape(persistent=True) as tape:
        table = tf.convert_to_tensor(loss.proxies)
        rows, places, proxies = method.novel(table, inputs["pair_a"], inputs["pair_b"], inputs["lam"], inputs["z"])
        labels = np.concatenate([inputs["labels"], 3 + places.numpy()])
        value = loss(tf.concat([embeddings, rows], 0), labels, novel_proxies=proxies)
    np.testing.assert_allclose(proxies, expected["novel_proxies"], atol=1e-12)
    np.testing.assert_allclose(rows, expected["novel_embeddings"], atol=1e-12)
    assert float(value) == pytest.approx(expected["loss"], rel=1e-10)
    of_embeddings, of_proxies = tape.gradient(value, [embeddings, loss.proxies.value])
    np.testing.assert_allclose(of_embeddings, expected["grad_embeddings"], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(of_proxies, expected["grad_proxies"], rtol=1e-8, atol=1e-12)
    generator = [v.value for v in method.generator.trainable_variables]
    assert tape.gradient(value, generator) == [None] * 4


def test_statistics_by_a_loop_over_classes():
    random = np.random.default_rng(0)
    real, made = random.normal(size=(2, 9, DIM))
    labels = np.array([0, 1, 1, 2, 2, 2, 2, 3, 1])  # classes 0 and 3 have one row: left out
    costs = [
        np.sum((real[labels == c].mean(0) - made[labels == c].mean(0)) ** 2)
        + np.sum((real[labels == c].var(0) - made[labels == c].var(0)) ** 2)
        for c in (1, 2)
    ]
    assert float(statistics_distance(real, made, labels)) == pytest.approx(np.mean(costs), rel=1e-12)
    assert float(statistics_distance(real, real, labels)) == 0
    assert float(statistics_distance(real[:2], made[:2], labels[:2])) == 0


def learner_of(**params):
    encoder = keras.Sequential([keras.Input((DIM,)), keras.layers.Dense(DIM), keras.layers.UnitNormalization()])
    facts = {"num_classes": CLASSES, "embedding_size": DIM, "steps_per_epoch": 2, "seed": 1}
    sizes = {"hidden": 8, "noise_size": 4}
    [generator] = create_methods([{"name": "novel_class_generator", "params": {**sizes, **params}}], **facts)
    learner = MetricLearner(encoder, create_loss("softmax", SOFTMAX, num_classes=CLASSES), [generator])
    learner.compile(create_optimizer("sgd", 0.1, rate_factors={"generator": 0.0}))
    learner.build((None, DIM))
    return learner


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    return random.normal(size=(6, DIM)).astype("float32"), np.arange(6) % CLASSES


def seen_by(learner, batch):
    """The step that reaches the loss."""

    def inner(step):
        inner.step = step
        return tf.constant(0.0)

    images, labels = batch
    learner.methods[0].loss(Step(images, {"embeddings": learner(images)}, tf.constant(labels), True), inner)
    return inner.step


def test_novel_classes_come_after_the_warm_up(batch):
    learner = learner_of(warmup=2, samples=3)
    for _ in range(2 * 2):
        assert "novel_proxies" not in seen_by(learner, batch).outputs
    for _ in range(2):
        step = seen_by(learner, batch)
        assert step.embeddings.shape == (6 + 3 * 3, DIM)  # half as many classes as rows
        np.testing.assert_array_equal(step.labels[6:], np.repeat([5, 6, 7], 3))
        for rows in (step.embeddings, step.outputs["novel_proxies"]):
            np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)


def test_a_novel_class_has_two_different_parents():
    method = learner_of(classes=400, warmup=0).methods[0]
    method.novel = lambda proxies, first, second, mixing, noise: (first, second, mixing)
    first, second, mixing = (values.numpy() for values in method._draw_novel(tf.range(6), tf.eye(CLASSES)))
    assert (first != second).all()
    assert set(first) == set(second) == set(range(CLASSES))
    assert mixing.mean() == pytest.approx(0.5, abs=0.06)  # uniform for kappa 1: four standard errors


def test_too_little_spread_costs_at_most_delta(batch):
    images, labels = batch
    method = learner_of(delta=0.2).methods[0]
    noise = np.random.default_rng(1).normal(size=(2, 6, 4)).astype("float32")
    for variable in method.generator.trainable_variables:
        *_, spread = method.generator_losses(images, labels, np.eye(CLASSES, DIM, dtype="float32"), *noise)
        assert 0 <= float(spread) <= 0.2
        variable.assign(np.zeros(variable.shape))
    *_, spread = method.generator_losses(images, labels, np.eye(CLASSES, DIM, dtype="float32"), *noise)
    assert float(spread) == pytest.approx(0.2, abs=1e-5)  # a generator without weights looks at no noise


def test_the_generator_has_a_rate_of_its_own_and_the_encoder_trains(batch):
    learner = learner_of(warmup=1)
    before = [v.numpy() for v in learner.trainable_variables]
    for _ in range(4):
        assert np.isfinite(learner.train_on_batch(*batch))
    moved = [(after.numpy() != value).any() for after, value in zip(learner.trainable_variables, before, strict=True)]
    of_generator = ["generator" in v.path.split("/") for v in learner.trainable_variables]
    assert sum(of_generator) == 4
    assert moved == [not of for of in of_generator]


def test_saved_with_generator_and_counter(batch, tmp_path):
    learner = learner_of(warmup=1)
    learner.train_on_batch(*batch)
    learner.train_on_batch(*batch)
    learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    assert again.train_on_batch(*batch) == learner.train_on_batch(*batch)
    assert again.evaluate(*batch, verbose=0) == learner.evaluate(*batch, verbose=0)


@pytest.mark.parametrize("params", [{"samples": 0}, {"kappa": 0.0}, {"w_div": -1.0}, {"warmup": -1}, {"classes": 0}])
def test_wrong_parameters_are_named(params):
    with pytest.raises(ValueError, match=f"`{next(iter(params))}`"):
        NovelClassGenerator(CLASSES, DIM, 1, **params)


@pytest.mark.thorough
def test_goes_on_as_if_never_stopped(goes_on, settings):
    params = {"warmup": 1, "hidden": 8, "noise_size": 4}
    arguments = settings(epochs=4, steps_per_epoch=25, methods=[{"name": "novel_class_generator", "params": params}])
    goes_on(arguments, stops=[20, 50])
