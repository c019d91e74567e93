"""Heads over given vectors: where they start, what they learn, what they refuse."""

import keras
import numpy as np
import pytest

from anchorage.encoders.vector_head import create_vector_encoder

VECTORS = np.random.default_rng(0).normal(size=(6, 5)).astype("float32")
DIRECTIONS = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["linear", "residual"])
def test_starts_as_the_identity_where_the_dimension_stays(kind):
    encoder = create_vector_encoder(5, kind=kind, layers=[7, 3])
    np.testing.assert_allclose(encoder.predict(VECTORS, verbose=0), DIRECTIONS, atol=1e-6)


def test_a_smaller_linear_head_starts_as_an_orthogonal_projection():
    encoder = create_vector_encoder(5, embedding_size=2)
    kernel = keras.ops.convert_to_numpy(encoder.get_layer("projection").kernel)
    np.testing.assert_allclose(kernel.T @ kernel, np.eye(2), atol=1e-6)


def test_gives_raw_rows_beside_the_embeddings():
    outputs = create_vector_encoder(5, kind="mlp", embedding_size=3, raw=True).predict(VECTORS, verbose=0)
    lengths = np.linalg.norm(outputs["raw"], axis=1, keepdims=True)
    np.testing.assert_allclose(outputs["embeddings"], outputs["raw"] / lengths, atol=1e-6)


def test_gradients_reach_every_weight_after_a_step():
    encoder = create_vector_encoder(5, kind="residual", layers=[4])
    before = [weight.copy() for weight in encoder.get_weights()]
    encoder.compile(keras.optimizers.SGD(0.5), loss="mse")
    target = np.roll(DIRECTIONS, 1, axis=1)
    encoder.fit(VECTORS, target, epochs=2, verbose=0)  # the hidden layer moves from the second step on
    assert all(np.abs(new - old).max() > 0 for new, old in zip(encoder.get_weights(), before, strict=True))


def test_dropout_acts_in_training_only():
    encoder = create_vector_encoder(5, kind="mlp", layers=[64], dropout=0.5)
    np.testing.assert_array_equal(encoder(VECTORS, training=False), encoder(VECTORS, training=False))
    assert np.abs(np.asarray(encoder(VECTORS, training=True)) - np.asarray(encoder(VECTORS, training=True))).max() > 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"kind": "deep"}, "one of linear, residual, mlp"),
        ({"kind": "residual", "embedding_size": 3}, "keeps the dimension of the vectors, 5"),
        ({"kind": "mlp", "layers": []}, "`layers` must hold positive sizes"),
        ({"embedding_size": 0}, "`embedding_size` must be positive"),
    ],
)
def test_rejects_invalid_arguments(arguments, text):
    with pytest.raises(ValueError, match=text):
        create_vector_encoder(5, **arguments)
