"""Proxies that start at class means: against means taken here, once only, and what has no proxies."""

import keras
import numpy as np
import pytest

from anchorage.errors import UsageError
from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.methods import TrainingContext
from anchorage.methods.class_mean_start import ClassMeanStart
from anchorage.training.run import train_run

LOSS = {"name": "proxy_nca"}


def create_context(store, method, loss="proxy_nca"):
    keras.utils.set_random_seed(1)
    pixels = keras.Input((16, 16, 3))
    encoder = keras.Model(pixels, keras.layers.Dense(4)(keras.layers.Flatten()(pixels)))
    facts = {"num_classes": 8} if loss == "proxy_nca" else {}
    learner = MetricLearner(encoder, create_loss(loss, **facts), [method])
    learner.compile("sgd")
    learner.build((None, 16, 16, 3))
    return TrainingContext(learner, store, None, 5, 1, 0)


def test_proxies_point_at_the_means_of_their_classes(store):
    context = create_context(store, ClassMeanStart())
    context.learner.methods[0].start(context)
    rows = context.learner.encoder.predict(store.read(np.arange(48)), verbose=0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    means = np.stack([rows[store.labels == label].mean(axis=0) for label in range(8)])
    proxies = np.array(context.learner.loss_layer.proxies)
    cosines = np.sum(means * proxies, axis=1) / np.linalg.norm(means, axis=1) / np.linalg.norm(proxies, axis=1)
    np.testing.assert_allclose(cosines, 1.0, rtol=1e-5)


def test_of_large_classes_some_images_are_enough(store, monkeypatch):
    read = []
    context = create_context(store, ClassMeanStart(per_class=2))
    plain = type(store).read
    monkeypatch.setattr(type(store), "read", lambda self, rows: read.append(rows) or plain(self, rows))
    context.learner.methods[0].start(context)
    assert np.bincount(store.labels[np.concatenate(read)]).tolist() == [2] * 8


@pytest.mark.thorough
def test_training_starts_there_and_goes_on_as_it_was(goes_on, settings):
    methods = [{"name": "class_mean_start", "params": {"per_class": 3}}]
    goes_on(settings(epochs=2, methods=methods) | {"loss": LOSS}, stops=(7,))


@pytest.mark.thorough
def test_the_first_step_is_better_than_from_random_proxies(store, validation_store, settings):
    plain = settings(epochs=1, steps_per_epoch=1) | {"loss": LOSS}
    warm = settings(epochs=1, steps_per_epoch=1, methods=[{"name": "class_mean_start"}]) | {"loss": LOSS}
    losses = [train_run(store, validation_store, **each).result.history[1]["loss"] for each in (plain, warm)]
    assert losses[1] < losses[0]


def test_a_loss_without_proxies_is_refused(store):
    context = create_context(store, ClassMeanStart(), loss="contrastive")
    with pytest.raises(UsageError, match=r"E_NO_PROXIES: 'class_mean_start' .* Received: Contrastive"):
        context.learner.methods[0].start(context)


def test_images_of_a_class_must_be_at_least_one():
    with pytest.raises(ValueError, match="per_class"):
        ClassMeanStart(per_class=0)
