"""A head that starts whitened: against principal components taken here, and where there is little to go by."""

import keras
import numpy as np
import pytest

from anchorage.encoders import create_encoder
from anchorage.errors import UsageError
from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.methods import TrainingContext
from anchorage.methods.whitened_start import WhitenedStart, whitening

LOSS = {"name": "contrastive"}


def create_context(store, method, **head):
    keras.utils.set_random_seed(1)
    encoder = create_encoder("small", image_size=16, embedding_size=4, widths=[4, 8], normalize=False, **head)
    learner = MetricLearner(encoder, create_loss("contrastive"), [method])
    learner.compile("sgd")
    learner.build((None, 16, 16, 3))
    return TrainingContext(learner, store, None, 5, 1, 0)


def test_embeddings_of_the_training_images_are_white(store):
    context = create_context(store, WhitenedStart())
    context.learner.methods[0].start(context)
    rows = context.learner.encoder.predict(store.read(np.arange(len(store))), verbose=0)
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-3 * rows.std())
    covariance = np.cov(rows.T, bias=True)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-3 * covariance.max()
    # Equal but for the floor of one per cent.
    pooled = keras.Model(context.learner.encoder.inputs, context.learner.encoder.get_layer("pooling").output)
    features = pooled.predict(store.read(np.arange(len(store))), verbose=0)
    variances = np.linalg.eigvalsh(np.cov(features.T.astype("float64"), bias=True))[::-1][:4]
    expected = variances / (variances + 0.01 * variances.mean())
    np.testing.assert_allclose(np.diag(covariance) / covariance[0, 0], expected / expected[0], rtol=1e-2)


def test_by_hand():
    """Two directions, (3, 0, 0) and (0, 1, 0), with variances 9 and 1 and a mean of (1, 1, 1); the floor is 0.05."""
    rows = np.array([[4.0, 2, 1], [4, 0, 1], [-2, 2, 1], [-2, 0, 1]])
    kernel, bias = whitening(rows, 2, np.random.default_rng(0))
    sizes = np.abs(kernel)
    assert sizes[0, 0] / sizes[1, 1] == pytest.approx(np.sqrt(1.05 / 9.05))
    assert sizes[0, 1] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose((rows @ kernel + bias).mean(axis=0), 0, atol=1e-12)
    # Glorot's rule for 3 inputs and 2 outputs
    assert np.mean(np.square(kernel)) == pytest.approx(2 / 5)


@pytest.mark.parametrize(("images", "width", "size"), [(1, 6, 4), (2, 6, 4), (3, 6, 6), (9, 3, 5), (50, 6, 4)])
def test_few_images_or_features_leave_no_direction_out(images, width, size):
    rows = np.random.default_rng(0).normal(size=(images, width))
    kernel, bias = whitening(rows, size, np.random.default_rng(1))
    assert kernel.shape == (width, size)
    assert bias.shape == (size,)
    assert np.isfinite(kernel).all()
    assert np.linalg.matrix_rank(kernel) == min(width, size)


def test_features_that_are_all_equal_are_no_trouble():
    kernel, bias = whitening(np.ones((5, 6)), 4, np.random.default_rng(1))
    assert np.isfinite(kernel).all()
    assert np.isfinite(bias).all()


def test_a_head_without_one_projection_is_refused(store):
    context = create_context(store, WhitenedStart(), head={"name": "global_local"})
    with pytest.raises(UsageError, match="E_NO_PROJECTION"):
        context.learner.methods[0].start(context)


@pytest.mark.thorough
def test_a_training_that_was_cut_off_goes_on_from_there(goes_on, settings):
    methods = [{"name": "whitened_start"}, {"name": "class_mean_start"}]
    goes_on(settings(epochs=2, methods=methods), stops=(7,))
