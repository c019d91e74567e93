"""Methods around a loss: their order, what they see, what is saved and resumed with the learner."""

import keras
import numpy as np
import pytest
from keras import ops

from anchorage.errors import UsageError
from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.methods import METHODS, Method, create_methods
from anchorage.training.run import train_run

DIM, CLASSES = 4, 3


@keras.saving.register_keras_serializable(package="tests")
class Affine(Method):
    """Makes `scale * inner + shift` of the inner loss, and counts its steps and epochs."""

    def __init__(self, scale=1.0, shift=0.0, num_classes=None, **kwargs):
        super().__init__(**kwargs)
        self.scale, self.shift, self.num_classes = scale, shift, num_classes

    def prepare(self, learner):
        make = {"shape": (), "initializer": "zeros", "trainable": False}
        self.steps, self.epochs, self.started = (self.add_weight(name=n, **make) for n in ("steps", "epochs", "begun"))

    def loss(self, step, inner):
        self.steps.assign_add(1.0)
        return self.scale * inner(step) + self.shift

    def start(self, context):
        self.started.assign_add(1.0)

    def after_epoch(self, context, logs):
        assert {"loss", "val_map@r"} <= set(logs)
        self.epochs.assign_add(1.0)

    def get_config(self):
        return {**super().get_config(), "scale": self.scale, "shift": self.shift, "num_classes": self.num_classes}


class OnlyFirst(Method):
    """Hands the first two rows on."""

    def loss(self, step, inner):
        return inner(step.replaced(step.embeddings[:2], step.labels[:2]))


def learner_with(*methods):
    encoder = keras.Sequential([keras.Input((DIM,)), keras.layers.Dense(2, kernel_initializer="ones")])
    learner = MetricLearner(encoder, create_loss("contrastive"), methods)
    learner.compile("sgd")
    learner.build((None, DIM))
    return learner


@pytest.fixture
def batch():
    return np.random.default_rng(0).normal(size=(6, DIM)).astype("float32"), np.arange(6, dtype="int32") % CLASSES


def loss_of(learner, batch, training=True):
    images, labels = batch
    return float(learner.compute_loss(images, labels, learner(images), training=training))


def test_the_first_method_is_the_outermost(batch):
    plain = loss_of(learner_with(), batch)
    twice = learner_with(Affine(scale=2.0), Affine(shift=1.0))
    assert loss_of(twice, batch) == pytest.approx(2 * (plain + 1), rel=1e-6)


def test_a_method_may_change_the_batch(batch):
    images, labels = batch
    expected = loss_of(learner_with(), (images[:2], labels[:2]))
    assert loss_of(learner_with(OnlyFirst()), batch) == pytest.approx(expected, rel=1e-6)


def test_methods_rest_outside_training(batch):
    plain = loss_of(learner_with(), batch)
    assert loss_of(learner_with(Affine(scale=2.0)), batch, training=False) == plain


def test_made_by_name_with_facts(monkeypatch):
    monkeypatch.setitem(METHODS, "affine", Affine)
    [made] = create_methods([{"name": "affine", "params": {"scale": 3.0}}], num_classes=7, epochs=2)
    assert (made.scale, made.num_classes) == (3.0, 7)
    with pytest.raises(UsageError, match="E_NAME_UNKNOWN"):
        create_methods([{"name": "afine"}])
    with pytest.raises(UsageError, match="E_PARAMETER_UNKNOWN"):
        create_methods([{"name": "affine", "params": {"slope": 1}}])


def test_saved_with_its_state(batch, tmp_path):
    learner = learner_with(Affine(scale=2.0))
    learner.train_on_batch(*batch)
    learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    assert float(ops.convert_to_numpy(again.methods[0].steps)) == 1
    assert again.train_on_batch(*batch) == learner.train_on_batch(*batch)


@pytest.mark.thorough
def test_hooks_and_state_through_a_training_that_goes_on(store, validation_store, settings, monkeypatch, tmp_path):
    methods = [{"name": "affine", "params": {"scale": 0.5}}]
    options = {"checkpoint_folder": tmp_path, "run_key": "a"}

    class Crash(Affine):
        def after_epoch(self, context, logs):
            super().after_epoch(context, logs)
            if float(ops.convert_to_numpy(self.epochs)) == 2:
                raise KeyboardInterrupt

    monkeypatch.setitem(METHODS, "affine", Crash)
    with pytest.raises(KeyboardInterrupt):
        train_run(store, validation_store, **settings(epochs=3, methods=methods), **options)
    monkeypatch.setitem(METHODS, "affine", Affine)
    learner, result = train_run(store, validation_store, **settings(epochs=3, methods=methods), **options)
    counts = [float(ops.convert_to_numpy(w)) for w in learner.methods[0].weights]
    best = result.best_epoch  # the weights, states among them, are those of the best epoch
    assert result.resumed_step == 5
    assert counts == [5 * best, best, 1]
    straight = train_run(store, validation_store, **settings(epochs=3, methods=methods))
    assert straight.result.history == result.history
