"""Alternating projections: the published cases, which pairs count, when the penalty begins anew, what is saved."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from anchorage.errors import UsageError
from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.methods import create_methods
from anchorage.methods.alternating_projections import AlternatingProjections
from anchorage.training.run import train_run

FILE = "02-alternating-projections"


def learner_of(size=2, units=2, dtype="float64", **params):
    loss = create_loss("contrastive", {"pos_margin": 0.1, "neg_margin": 0.9, "normalize": False})
    loss.dtype_policy = keras.DTypePolicy(dtype)
    layers = [keras.Input((size,), dtype=dtype), keras.layers.Dense(units, use_bias=False, dtype=dtype)]
    method = AlternatingProjections(**{"num_representatives": 2, "lifetime": 3, "dtype": dtype, **params})
    learner = MetricLearner(keras.Sequential(layers), loss, [method])
    learner.compile(keras.optimizers.SGD(0.1))
    learner.build((None, size))
    return learner


def test_published_representatives(case):
    found = case(FILE, "representatives_first_two_rows")
    learner = learner_of()
    rows = tf.Variable(np.array(found["inputs"]["embeddings"]))
    with tf.GradientTape() as tape:
        value = learner.compute_loss(rows, np.array(found["inputs"]["labels"]), rows, training=True)
    assert float(value) == pytest.approx(found["expected"]["loss"], rel=1e-10)
    np.testing.assert_allclose(
        tape.gradient(value, rows), found["expected"]["grad"]["embeddings"], rtol=1e-9, atol=1e-12
    )


def test_published_projection(case):
    found = case(FILE, "projection_objective_linear")
    inputs, expected = found["inputs"], found["expected"]
    learner = learner_of(size=3, lam=found["params"]["lam"])
    method, kernel = learner.methods[0], learner.encoder.layers[0].kernel
    kernel.assign(np.array(inputs["previous_weight"]))
    method.held.take()
    kernel.assign(np.array(inputs["weight"]))
    method.steps.assign(method.lifetime + 1)  # the second step of the second projection
    features = np.array(inputs["features"])
    with tf.GradientTape() as tape:
        value = learner.compute_loss(features, np.array(inputs["labels"]), learner(features), training=True)
    assert float(value) == pytest.approx(expected["loss"], rel=1e-10)
    np.testing.assert_allclose(tape.gradient(value, kernel.value), expected["grad"]["weight"], rtol=1e-9, atol=1e-12)


def test_only_pairs_of_a_representative_with_another_item_count():
    """By hand: contrastive hinges between rows 0, 1 and rows 2 to 5, each kind over its own active pairs."""
    rows = np.random.default_rng(0).normal(size=(6, 2)) * 0.4  # inside the unit ball
    labels = np.array([0, 1, 0, 1, 0, 1])
    pull, push = [], []
    for i in (0, 1):
        for j in (2, 3, 4, 5):
            gap = np.linalg.norm(rows[i] - rows[j])
            (pull if labels[i] == labels[j] else push).append(gap - 0.1 if labels[i] == labels[j] else 0.9 - gap)
    expected = sum(np.mean([c for c in costs if c > 0]) for costs in (pull, push) if any(c > 0 for c in costs))
    learner = learner_of()
    rows = tf.constant(rows)
    assert np.linalg.norm(rows, axis=1).max() < 1
    assert float(learner.compute_loss(rows, labels, rows, training=True)) == pytest.approx(expected, rel=1e-9)


IMAGES = np.random.default_rng(1).normal(size=(6, 3))
LABELS = np.array([0, 1, 0, 1, 0, 1])


def weights_after(steps, **params):
    learner = learner_of(size=3, **params)
    kernel = learner.encoder.layers[0].kernel
    kernel.assign(np.arange(6.0).reshape(3, 2) / 10)
    path = [ops.convert_to_numpy(kernel).copy()]
    for _ in range(steps):
        learner.train_on_batch(IMAGES, LABELS)
        path.append(ops.convert_to_numpy(kernel).copy())
    return learner, path


def test_the_penalty_begins_anew_with_each_projection():
    learner, path = weights_after(8, lam=0.5, decay=0.5)
    method = learner.methods[0]
    np.testing.assert_array_equal(method.held.weights[0], path[6])  # steps 6 and 7 are of the third projection
    # Step 8 by hand: the gradient of a step without penalty, and lam decay^2 (theta - theta_2) on top.
    plain, _ = weights_after(0, lam=0.0)
    plain.encoder.layers[0].kernel.assign(path[7])
    plain.train_on_batch(IMAGES, LABELS)
    free = ops.convert_to_numpy(plain.encoder.layers[0].kernel)
    np.testing.assert_allclose(path[8], free - 0.1 * 0.5 * 0.5**2 * (path[7] - path[6]), rtol=1e-9)


@pytest.mark.parametrize("params", [{"lam": 0.0}, {"lam": 0.5, "lifetime": 1}])
def test_equal_to_plain_training(params):
    """Without a penalty, and where every step is a projection of its own; the first one has none in any case."""
    plain = weights_after(7, lam=0.0)[1]
    np.testing.assert_allclose(weights_after(7, **params)[1], plain, rtol=1e-9)
    np.testing.assert_allclose(weights_after(3, lam=0.5)[1], plain[:4], rtol=1e-9)
    assert np.abs(weights_after(7, lam=0.5)[1][7] - plain[7]).max() > 1e-6


def test_a_strong_penalty_takes_the_weights_back():
    """At 1 over the step size each step starts from the held weights again: no way is added to another."""
    _, path = weights_after(12, lam=10.0, lifetime=6)
    _, free = weights_after(12, lam=0.0, lifetime=6)
    held = max(np.linalg.norm(weights - path[6]) for weights in path[7:])
    assert held < 0.5 * np.linalg.norm(free[12] - free[6])


def test_the_sampler_chooses_the_representatives(store, validation_store, settings):
    sampler = {"name": "representative_batches", "params": {"classes": 4, "per_class": 2, "lifetime": 7}}
    arguments = settings(epochs=1, sampler=sampler, methods=[{"name": "alternating_projections"}])
    arguments["loss"] = {"name": "contrastive", "params": {"normalize": False}}
    method = train_run(store, validation_store, **arguments).learner.methods[0]
    assert (method.num_representatives, method.lifetime) == (4, 7)
    with pytest.raises(UsageError, match=r"E_PARAMETER_MISSING.*'lifetime', 'num_representatives'"):
        create_methods([{"name": "alternating_projections"}], num_classes=8)


@pytest.mark.thorough
def test_state_is_saved_and_resumed(goes_on, settings):
    sampler = {"name": "representative_batches", "params": {"classes": 4, "per_class": 3, "lifetime": 8}}
    arguments = settings(
        epochs=5,
        steps_per_epoch=20,
        sampler=sampler,
        methods=[{"name": "alternating_projections", "params": {"lam": 0.1}}],
    )
    arguments["loss"] = {"name": "multi_similarity", "params": {"mining": False, "normalize": False}}
    goes_on(arguments, stops=[50])
