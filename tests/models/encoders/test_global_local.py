"""Global and local heads: the published forward cases, what attention must keep, and the fine map of any trunk."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anchorage.encoders import create_encoder
from anchorage.encoders.backbones import small_trunk
from anchorage.encoders.global_local import SecondOrderAttention, join_branches, with_fine_map
from anchorage.errors import UsageError

FILE = "07-multi-head-global-local"
HEAD = {"name": "global_local"}


def head_of_case(case):
    """The head with the weights of a case, as a model from the two maps, and its weights by the case's names."""
    inputs, params = case["inputs"], case["params"]
    fine, coarse = (keras.Input(np.shape(inputs[key])[1:], dtype="float64") for key in ("local_map", "global_map"))
    attention = {"zeta": params["zeta"], "scale": params["scale"], "variant": "plain"}
    outputs = join_branches(fine, coarse, 4, (2, 2), True, True, attention, dtype="float64")
    model = keras.Model([fine, coarse], outputs)
    weights = {}
    for letter, name in (("l", "local"), ("g", "global")):
        block = model.get_layer(f"{name}_attention")
        projection = model.get_layer(f"{name}_projection")
        dense = {"q": block.query, "k": block.key, "v": block.value, "o": block.outward, "fc": projection}
        for key, layer in dense.items():
            weights |= {f"{letter}_{key}": layer.kernel, f"{letter}_{key}b": layer.bias}
    for key, variable in weights.items():
        variable.assign(np.array(inputs["weights"][key]))
    return model, weights


@pytest.mark.parametrize("scale", ["none", "sqrt"])
def test_forward_and_gradients_as_published(case, scale):
    case = case(FILE, f"head_forward_scale_{scale}")
    model, weights = head_of_case(case)
    expected = case["expected"]
    maps = [tf.Variable(np.array(case["inputs"][key])) for key in ("local_map", "global_map")]
    attention, refined = model.get_layer("local_attention").attend(maps[0])
    np.testing.assert_allclose(attention, expected["local_attention"], atol=1e-12)
    np.testing.assert_allclose(refined, expected["local_refined"], atol=1e-12)
    with tf.GradientTape() as tape:
        outputs = model(maps)
        probe = tf.reduce_sum(outputs["embeddings"] * np.array(case["inputs"]["probe"]))
    np.testing.assert_allclose(outputs["embeddings"], expected["embedding"], atol=1e-12)
    assert float(probe) == pytest.approx(expected["probe_value"], rel=1e-10)
    gradients = tape.gradient(probe, [*maps, *(variable.value for variable in weights.values())])
    np.testing.assert_allclose(gradients[0], expected["grad_local_map"], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(gradients[1], expected["grad_global_map"], rtol=1e-8, atol=1e-12)
    assert np.linalg.norm(gradients[0]) == pytest.approx(expected["grad_norm"], rel=1e-9)
    for key, gradient in zip(weights, gradients[2:], strict=True):
        assert np.linalg.norm(gradient) == pytest.approx(expected["grad_norm_weights"][key], rel=1e-8, abs=1e-12), key


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(2, 3, 3, 4)).astype("float32")


def attention_layer(features, start=True, **params):
    """A layer that changes maps, or with `start=False` one as it is made."""
    layer = SecondOrderAttention(2, **params)
    layer(features)
    if start:
        random = np.random.default_rng(1)
        for weight in (*layer.outward.weights, layer.query.bias):
            weight.assign(random.normal(size=weight.shape))
    return layer


@pytest.mark.parametrize("variant", ["plain", "solar"])
def test_attention_is_a_share_and_starts_as_identity(features, variant):
    layer = attention_layer(features, variant=variant)
    attention, refined = layer.attend(features)
    assert (attention.numpy() >= 0).all()
    np.testing.assert_allclose(attention.numpy().sum(axis=2), 1.0, atol=1e-6)
    assert not np.allclose(refined, features)
    fresh = attention_layer(features, start=False, variant=variant)
    np.testing.assert_array_equal(fresh(features), features)
    again = SecondOrderAttention.from_config(layer.get_config())
    assert again.variant == variant


def test_zeta_zero_looks_everywhere_alike(features):
    layer = attention_layer(features, zeta=0.0)
    rows = features.reshape(2, 9, 4)
    expected = rows + layer.outward(layer.value(rows).numpy().mean(axis=1, keepdims=True)).numpy()
    np.testing.assert_allclose(layer(features).numpy().reshape(2, 9, 4), expected, atol=1e-5)


def test_order_of_positions_does_not_matter_to_the_embedding(features):
    order = np.random.default_rng(2).permutation(9)
    shuffled = features.reshape(2, 9, 4)[:, order].reshape(features.shape)
    layer = attention_layer(features)
    np.testing.assert_allclose(
        layer(shuffled).numpy().reshape(2, 9, 4), layer(features).numpy().reshape(2, 9, 4)[:, order], atol=1e-5
    )
    maps = [keras.Input((3, 3, 4)) for _ in range(2)]
    attention = {"zeta": 1.0, "scale": "none", "variant": "plain"}
    head = keras.Model(maps, join_branches(*maps, 6, (2, 2), True, False, attention))
    embeddings = head([features, features])["embeddings"]
    np.testing.assert_allclose(head([shuffled, shuffled])["embeddings"], embeddings, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize(
    "params",
    [{"channels": 0}, {"channels": 2, "zeta": -1.0}, {"channels": 2, "scale": "l2"}, {"channels": 2, "variant": "x"}],
)
def test_wrong_parameters_are_named(params):
    with pytest.raises(ValueError, match=f"`{list(params)[-1]}`"):
        SecondOrderAttention(**params)


def test_encoder_gives_both_halves():
    params = {"widths": [4, 8, 8], "head": HEAD, "embedding_size": 6, "image_size": 16}
    encoder = create_encoder("small", **params)
    assert encoder.get_layer("local_attention").input.shape == (None, 8, 8, 8)
    assert encoder.get_layer("global_attention").input.shape == (None, 4, 4, 8)
    images = np.random.default_rng(0).uniform(0, 255, (3, 16, 16, 3)).astype("float32")
    outputs = create_encoder("small", **params, raw=True)(images)
    halves = outputs["raw"].numpy().reshape(3, 2, 3)
    np.testing.assert_allclose(outputs["heads"], halves / np.linalg.norm(halves, axis=2, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(outputs["embeddings"], axis=1), 1.0, atol=1e-5)
    assert list(encoder(images)) == ["embeddings", "heads"]
    with pytest.raises(ValueError, match="`embedding_size` must be even"):
        create_encoder("small", **{**params, "embedding_size": 5})


def test_the_coarse_map_is_made_from_the_fine_one_as_it_is():
    pixels = keras.Input((16, 16, 3))
    trunk = keras.Model(pixels, small_trunk(pixels, widths=(4, 8)), name="trunk")
    maps = with_fine_map(trunk)
    images = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype("float32")
    fine, coarse = maps(images)
    assert (fine.shape, coarse.shape) == ((2, 16, 16, 4), (2, 8, 8, 8))
    np.testing.assert_array_equal(coarse, trunk(images))
    assert maps.name == "trunk"
    assert with_fine_map(trunk, "stage_0_0").outputs[0].shape == (None, 16, 16, 4)
    with pytest.raises(UsageError, match="E_ENCODER_LAYER"):
        with_fine_map(trunk, "conv4")


def test_a_stored_network_gives_its_map_from_within():
    params = {"alpha": 0.35, "head": HEAD, "embedding_size": 8, "image_size": 64}
    encoder = create_encoder("MobileNetV2", **params)
    assert encoder.get_layer("local_attention").input.shape[1:3] == (4, 4)
    assert encoder.get_layer("global_attention").input.shape[1:3] == (2, 2)
    by_name = create_encoder(
        "MobileNetV2", **{**params, "head": {**HEAD, "params": {"local_layer": "block_6_expand_relu"}}}
    )
    assert by_name.get_layer("local_attention").input.shape[1:3] == (8, 8)


@pytest.mark.parametrize(("still", "learning"), [("global", "local"), ("local", "global")])
def test_each_half_learns_without_the_other(still, learning):
    encoder = create_encoder("small", widths=[4, 8], head=HEAD, embedding_size=4, image_size=8)
    encoder.get_layer(f"{still}_projection").trainable = False
    images = np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 3)).astype("float32")
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(encoder(images)["embeddings"] * np.arange(4.0, dtype="float32"))
    kernel = encoder.get_layer(f"{learning}_projection").kernel
    assert np.abs(tape.gradient(total, kernel.value)).max() > 0
    assert not any(kernel is encoder.get_layer(f"{still}_projection").kernel for kernel in encoder.trainable_variables)
