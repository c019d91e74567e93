"""The moving average of the encoder: its values by hand, what is judged, what remains."""

import keras
import numpy as np
import pytest

from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.methods.moving_average import MovingAverage
from anchorage.training.run import train_run


def test_values_by_hand():
    encoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False, kernel_initializer="ones")])
    learner = MetricLearner(encoder, create_loss("contrastive"), [MovingAverage(momentum=0.15)])
    learner.compile("sgd")
    learner.build((None, 2))
    kernel, average = encoder.weights[0], learner.methods[0].average.weights[0]
    images, labels = np.ones((2, 2), "float32"), np.array([0, 1])
    expected = 1.0
    for step, value in enumerate((3.0, -2.0, 5.0)):
        kernel.assign(np.full((2, 2), value))
        learner.compute_loss(images, labels, learner(images, training=True), training=True)
        kept = min(0.15, (1 + step) / (10 + step))  # 0.1, 0.15, 0.15
        expected = kept * expected + (1 - kept) * value
        np.testing.assert_allclose(average, np.full((2, 2), expected), rtol=1e-6)
    np.testing.assert_allclose(learner(images), np.full((2, 2), 2 * expected), rtol=1e-6)  # judged: the average
    np.testing.assert_allclose(learner(images, training=True), np.full((2, 2), 10.0))


@pytest.mark.thorough
def test_the_encoder_ends_as_what_was_judged(store, validation_store, settings, tmp_path):
    arguments = settings(epochs=3, methods=[{"name": "moving_average", "params": {"momentum": 0.8}}])
    learner, result = train_run(store, validation_store, **arguments)
    images = store.read(np.arange(4))
    np.testing.assert_array_equal(learner.predict(images, verbose=0), learner.encoder.predict(images, verbose=0))
    learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    np.testing.assert_array_equal(learner.predict(images, verbose=0), again.predict(images, verbose=0))
    plain = train_run(store, validation_store, **settings(epochs=3)).result
    losses = [[row["loss"] for row in each.history[1:]] for each in (plain, result)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # training is untouched
    assert plain.history[-1]["mean_cosine"] != pytest.approx(result.history[-1]["mean_cosine"], rel=1e-4)


@pytest.mark.parametrize("momentum", [-0.1, 1.0])
def test_momentum_must_lie_in_range(momentum):
    with pytest.raises(ValueError, match="momentum"):
        MovingAverage(momentum=momentum)
