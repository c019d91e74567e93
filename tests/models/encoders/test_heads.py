"""Pooling against hand sums; the head's shape, type and length."""

import keras
import numpy as np
import pytest
from keras import ops

from anchorage.encoders.heads import POOLINGS, GeneralizedMeanPooling, attach_head, attach_identity_head
from anchorage.errors import UsageError

FEATURES = np.array([[[[1.0, 0.0], [2.0, 4.0]], [[3.0, 0.0], [6.0, 4.0]]]])  # (1, 2, 2, 2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("avg", [3.0, 2.0]),
        ("max", [6.0, 4.0]),
        ("gem", [((1 + 8 + 27 + 216) / 4) ** (1 / 3), (2 * 64 / 4) ** (1 / 3)]),
    ],
)
def test_pools_a_feature_map_by_hand(name, expected):
    np.testing.assert_allclose(POOLINGS[name]()(FEATURES), [expected], rtol=1e-6)


def test_gem_with_exponent_one_is_the_mean_and_learns_its_exponent():
    pool = GeneralizedMeanPooling(exponent=1.0)
    np.testing.assert_allclose(pool(FEATURES), [[3.0, 2.0]], rtol=1e-5)
    assert [w.path for w in pool.trainable_weights] == [f"{pool.name}/power"]


def test_gem_of_a_dead_map_has_finite_gradient():
    tf = pytest.importorskip("tensorflow")
    pool, dead = GeneralizedMeanPooling(), tf.zeros((2, 3, 3, 4))
    with tf.GradientTape() as tape:
        tape.watch(dead)
        total = ops.sum(pool(dead))
    gradients = tape.gradient(total, [dead, *pool.trainable_weights])
    assert all(np.isfinite(g).all() for g in gradients)


def test_gem_refuses_a_small_exponent():
    with pytest.raises(ValueError, match=r"`exponent` must be at least 1\. Received: exponent=0\.5"):
        GeneralizedMeanPooling(exponent=0.5)


@pytest.mark.parametrize("pooling", sorted(POOLINGS))
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_rows_have_unit_length_in_float32(pooling, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        shape = (6,) if pooling == "token" else (4, 4, 6)
        features = keras.Input(shape)
        model = keras.Model(features, attach_head(features, 5, pooling, normalize=True))
        rows = model(np.random.default_rng(0).random((3, *shape)))
    finally:
        keras.config.set_dtype_policy(before)
    assert keras.backend.standardize_dtype(rows.dtype) == "float32"
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)


def test_unnormalised_rows_keep_their_length():
    features = keras.Input((1, 1, 2))
    model = keras.Model(features, attach_head(features, 2, "avg", normalize=False))
    model.get_layer("projection").set_weights([3 * np.eye(2), np.ones(2)])
    np.testing.assert_allclose(model(np.array([[[[1.0, 2.0]]]])), [[4.0, 7.0]])


def test_wrong_settings_are_named():
    features = keras.Input((4, 4, 6))
    with pytest.raises(UsageError, match=r"Unknown pooling 'mean'\. Known: \['avg', 'gem', 'max', 'token'\]"):
        attach_head(features, 5, "mean", normalize=True)
    with pytest.raises(ValueError, match="`embedding_size` must be positive"):
        attach_head(features, 0, "avg", normalize=True)


@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_the_projection_starts_at_the_scale_asked_for(scale):
    keras.utils.set_random_seed(4)
    features = keras.Input((2, 2, 30))
    model = keras.Model(features, attach_head(features, 50, "avg", normalize=False, start_scale=scale))
    kernel = ops.convert_to_numpy(model.get_layer("projection").kernel)
    limit = scale * np.sqrt(6 / (30 + 50))  # Glorot and Bengio, 2010, equation 16
    assert 0.95 * limit < np.abs(kernel).max() <= limit * (1 + 1e-6)
    assert kernel.std() == pytest.approx(limit / np.sqrt(3), rel=0.05)


def test_the_projection_cannot_start_at_zero():
    with pytest.raises(ValueError, match="start_scale=0"):
        attach_head(keras.Input((2, 2, 3)), 5, "avg", normalize=True, start_scale=0)


def test_the_identity_head_gives_the_pooled_features_themselves():
    features = keras.Input((2, 2, 2))
    rows = keras.Model(features, attach_identity_head(features, "avg", normalize=False))(FEATURES)
    np.testing.assert_allclose(rows, [[3.0, 2.0]], rtol=1e-6)
    both = keras.Model(features, attach_identity_head(features, "max", normalize=True, raw=True))(FEATURES)
    np.testing.assert_allclose(both["raw"], [[6.0, 4.0]], rtol=1e-6)
    np.testing.assert_allclose(both["embeddings"], [[6 / 52**0.5, 4 / 52**0.5]], rtol=1e-6)


def test_a_feature_map_has_no_class_token():
    with pytest.raises(UsageError, match="class token") as raised:
        attach_identity_head(keras.Input((2, 2, 2)), "token", normalize=True)
    assert raised.value.code == "E_POOLING"
