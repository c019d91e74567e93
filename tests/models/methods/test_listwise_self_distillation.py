"""Listwise self-distillation against the published cases and its properties; its teacher through a training."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.methods.listwise_self_distillation import ListwiseSelfDistillation, listwise_divergence
from anchorage.methods.method import TrainingContext
from anchorage.training.run import train_run

CASES = ("tau1_self_included", "tau0.1_self_included", "tau0.5_self_excluded", "tau0.5_neg_scale0.5")


def params_of(case):
    params = case["params"]
    return {
        "temperature": params["tau"],
        "negative_scale": params["neg_scale"],
        "include_self": params["include_self"],
    }


def unit(*degrees):
    return np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], axis=1)


def divergence(student, teacher, labels=None, **params):
    labels = np.zeros(len(student), int) if labels is None else labels
    return float(listwise_divergence(ops.array(student), ops.array(teacher), ops.array(labels), **params))


@pytest.mark.parametrize("name", CASES)
def test_published_cases(case, name):
    found = case("12-lsd", name)
    student, expected = tf.Variable(np.array(found["inputs"]["student"])), found["expected"]
    with tf.GradientTape() as tape:
        value = listwise_divergence(
            student, np.array(found["inputs"]["teacher"]), np.array(found["inputs"]["labels"]), **params_of(found)
        )
    gradient = tape.gradient(value, student)
    assert float(value) == pytest.approx(expected["kl"], rel=1e-10)
    np.testing.assert_allclose(gradient, expected["grad_student"], rtol=1e-9, atol=1e-12)
    assert float(tf.norm(gradient)) == pytest.approx(expected["grad_norm"], rel=1e-9)


def test_properties_of_the_divergence():
    random = np.random.default_rng(0)
    student, teacher = unit(*random.uniform(0, 360, 7)), unit(*random.uniform(0, 360, 7))
    turn, order = unit(30, 120), random.permutation(7)  # an orthogonal matrix
    plain = divergence(student, teacher, temperature=0.3)
    assert 0 < plain <= 4 / 0.3
    assert divergence(student @ turn, teacher, temperature=0.3) == pytest.approx(plain, rel=1e-9)
    assert divergence(student, teacher @ turn.T, temperature=0.3) == pytest.approx(plain, rel=1e-9)
    assert divergence(student[order], teacher[order], temperature=0.3) == pytest.approx(plain, rel=1e-9)
    assert divergence(student, teacher, random.integers(0, 3, 7), temperature=0.3) == pytest.approx(plain, rel=1e-12)
    assert divergence(teacher, teacher) == pytest.approx(0, abs=1e-15)
    hot, hotter = (t**2 * divergence(student, teacher, temperature=t) for t in (1e3, 1e4))
    assert hot == pytest.approx(hotter, rel=1e-2)


def test_a_teacher_like_the_student_teaches_nothing():
    rows = tf.Variable(unit(*np.random.default_rng(1).uniform(0, 360, 7)))
    with tf.GradientTape() as tape:
        value = listwise_divergence(rows, rows.numpy(), np.zeros(7, int), temperature=0.3)
    np.testing.assert_allclose(tape.gradient(value, rows), np.zeros((7, 2)), atol=1e-14)


@pytest.mark.parametrize("include_self", [True, False])
def test_nothing_to_list(include_self):
    rows = tf.Variable([[1.0, 0.0]])
    with tf.GradientTape() as tape:
        value = listwise_divergence(rows, np.array([[0.0, 1.0]]), np.array([0]), include_self=include_self)
    assert float(value) == 0
    np.testing.assert_array_equal(tape.gradient(value, rows), np.zeros((1, 2)))


@pytest.fixture
def learner():
    layers = [keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(2), keras.layers.UnitNormalization()]
    learner = MetricLearner(
        keras.Sequential(layers), create_loss("contrastive"), [ListwiseSelfDistillation(epochs=4, weight=10.0)]
    )
    learner.compile("sgd")
    learner.build((None, 3))
    return learner


IMAGES = np.random.default_rng(1).normal(size=(6, 3)).astype("float32")
LABELS = np.arange(6) // 2


def loss_of(learner, outputs, training=True):
    return float(learner.compute_loss(IMAGES, LABELS, outputs, training=training))


def test_the_term_grows_by_the_epoch_and_its_teacher_is_the_last_epoch(learner):
    method, context = learner.methods[0], TrainingContext(learner, None, None, 1, 4, 0)
    outputs = learner(IMAGES, training=False)
    plain = loss_of(learner, outputs, training=False)
    assert loss_of(learner, outputs) == pytest.approx(plain, rel=1e-6)  # epoch 0
    taught = ops.convert_to_numpy(outputs)  # the teacher runs without dropout
    method.after_epoch(context, {})
    kernel = learner.encoder.layers[-2].kernel
    kernel.assign(ops.convert_to_numpy(kernel)[:, ::-1] * [[1.0], [-2.0], [0.5]])
    moved = learner(IMAGES, training=False)
    base = loss_of(learner, moved, training=False)
    expected = 10.0 * divergence(ops.convert_to_numpy(moved), taught)
    assert expected > 0.1
    assert loss_of(learner, moved) == pytest.approx(base + expected / 4, rel=1e-5)
    method.epoch.assign(3)
    assert loss_of(learner, moved) == pytest.approx(base + expected * 3 / 4, rel=1e-5)


def test_no_gradient_reaches_the_teacher(learner):
    method = learner.methods[0]
    method.epoch.assign(2)
    assert not method.teacher.trainable_variables
    assert {v.path for v in learner.trainable_variables} == {v.path for v in learner.encoder.trainable_variables}
    method.teacher.trainable = True
    with tf.GradientTape() as tape:
        value = learner.compute_loss(IMAGES, LABELS, learner(IMAGES), training=True)
    sources = [v.value for v in method.teacher.trainable_variables]
    assert sources
    assert all(gradient is None for gradient in tape.gradient(value, sources))


@pytest.mark.thorough
def test_state_is_saved_and_resumed(goes_on, settings):
    methods = [{"name": "listwise_self_distillation", "params": {"weight": 20.0}}]
    learner = goes_on(settings(epochs=5, steps_per_epoch=20, methods=methods), stops=[50])
    method = learner.methods[0]
    assert type(method).__name__ == "ListwiseSelfDistillation"
    for ours, theirs in zip(method.teacher.get_weights(), learner.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)  # the best epoch's end, as it was saved
    assert method.epochs == 5


def test_history_has_base_divergence_and_share(store, validation_store, settings):
    methods = [{"name": "listwise_self_distillation", "params": {"weight": 20.0}}]
    _, *history = train_run(store, validation_store, **settings(epochs=2, methods=methods)).result.history
    assert [row["distillation_share"] for row in history] == [0.0, 0.5]
    for row in history:
        total = row["distillation_base_loss"] + 20 * row["distillation_share"] * row["distillation_divergence"]
        if row["distillation_share"] == 0:
            assert row["loss"] == pytest.approx(total, rel=1e-5)
        else:  # the regulariser of the trunk, if any, is in the loss alone
            assert row["loss"] == pytest.approx(total, rel=1e-3)
