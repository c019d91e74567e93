"""KerasHub's own networks, called directly, are the oracle; presets are tiny and made here."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from presets import SIZE, save_preset, scaled

from anchorage.data.store import RecordSpec
from anchorage.encoders import create_encoder
from anchorage.encoders.hub import fetch_preset, merge_lora
from anchorage.encoders.text import export_text_encoder, load_tokenizer, takes_text
from anchorage.errors import ResourceError, UsageError
from anchorage.learner import MetricLearner
from anchorage.losses.contrastive import ContrastiveLoss
from anchorage.serving.export import export_encoder
from anchorage.training.run import load_learner, train_run

FAMILIES = ("dinov2", "dinov3", "vit", "resnet", "clip", "siglip")
IDENTITY = {"name": "identity"}


def is_thorough(item):
    """A vision transformer, a model of images and texts and a convolutional network stand for the others."""
    return hasattr(item, "callspec") and item.callspec.params.get("family") in ("dinov3", "siglip", "vit")


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """Folder and backbone by family, each made on its first use."""
    folder, made = tmp_path_factory.mktemp("encoders"), {}

    def get(family):
        if family not in made:
            made[family] = folder / family, save_preset(folder / family, family)
        return made[family]

    return get


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


def make(folder, size=SIZE, pooling="token", **params):
    return create_encoder(
        f"hub:{folder.name}",
        image_size=size,
        embedding_size=8,
        pooling=pooling,
        weights=str(folder),
        head=params.pop("head", IDENTITY),
        **params,
    )


def directions(rows):
    rows = np.asarray(rows)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize(("family", "key"), [("dinov2", "images"), ("dinov3", "pixel_values"), ("vit", None)])
def test_token_pooling_takes_the_class_token(presets, images, family, key):
    folder, backbone = presets(family)
    tokens = np.asarray(backbone({key: scaled(images)} if key else scaled(images)))
    np.testing.assert_allclose(make(folder)(images), directions(tokens[:, 0]), atol=1e-5)


@pytest.mark.parametrize(("family", "before"), [("dinov2", 5), ("dinov3", 5), ("vit", 1)])
def test_other_poolings_leave_out_class_token_and_registers(presets, images, family, before):
    folder, backbone = presets(family)
    key = {"dinov2": "images", "dinov3": "pixel_values"}.get(family)
    tokens = np.asarray(backbone({key: scaled(images)} if key else scaled(images)))[:, before:]
    side = {"dinov2": 4, "dinov3": 3, "vit": 3}[family]
    assert tokens.shape[1] == side * side
    np.testing.assert_allclose(make(folder, pooling="avg")(images), directions(tokens.mean(axis=1)), atol=1e-5)
    features = make(folder, pooling="max").get_layer("trunk")(images)
    np.testing.assert_allclose(features[:, 1, 2], tokens[:, side + 2], atol=1e-5)  # second row, third column


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_an_encoder_of_images_and_texts_gives_the_embedding_that_texts_are_compared_with(presets, images, family):
    folder, backbone = presets(family)
    pixels = images / np.float32(127.5) - 1
    np.testing.assert_allclose(make(folder)(images), directions(backbone.get_vision_embeddings(pixels)), atol=1e-5)
    vision = backbone.vision_encoder
    if family == "clip":
        patches = np.asarray(vision({"images": pixels}))[:, 1:]
    else:
        patches = np.asarray(keras.Model(vision.input, vision.post_layer_norm.output)({"images": pixels}))
    np.testing.assert_allclose(make(folder, pooling="avg")(images), directions(patches.mean(axis=1)), atol=1e-5)


def test_a_convolutional_network_gives_its_map_for_any_size(presets, images):
    folder, backbone = presets("resnet")
    expected = np.asarray(backbone(scaled(images))).mean(axis=(1, 2))
    np.testing.assert_allclose(make(folder, pooling="avg")(images), directions(expected), atol=1e-5)
    assert make(folder, size=80, pooling="gem").output_shape == (None, 64)


def test_position_embeddings_are_interpolated_for_another_size(presets):
    from keras_hub.models import Backbone

    folder, _ = presets("dinov2")
    larger = np.random.default_rng(1).integers(0, 256, (2, 72, 72, 3), np.uint8)
    oracle = Backbone.from_preset(str(folder), image_shape=(72, 72, 3))
    expected = np.asarray(oracle({"images": scaled(larger)}))[:, 0]
    np.testing.assert_allclose(make(folder, size=72)(larger), directions(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "size", "expected"),
    [
        ("dinov2", 50, "a multiple of 12 pixels, such as 48"),
        ("dinov3", 8, "a multiple of 16 pixels, such as 16"),
        ("vit", 64, "images of 48 pixels"),
        ("clip", 64, "images of 48 pixels"),
        ("siglip", 64, "images of 48 pixels"),
    ],
)
def test_a_size_that_the_encoder_cannot_take_is_refused_with_one_that_it_can(presets, family, size, expected):
    with pytest.raises(UsageError, match=expected) as raised:
        make(presets(family)[0], size=size)
    assert raised.value.code == "E_IMAGE_SIZE"


def test_a_network_without_a_class_token_names_the_poolings_it_has(presets):
    with pytest.raises(UsageError, match="'avg', 'max' or 'gem'") as raised:
        make(presets("resnet")[0])
    assert raised.value.code == "E_POOLING"


def test_a_missing_preset_says_how_to_get_it(tmp_path, presets):
    with pytest.raises(UsageError, match="anchorage encoders fetch nowhere"):
        make(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"registered_name": "nothing", "class_name": "x", "module": "y"}')
    with pytest.raises(UsageError) as raised:
        make(tmp_path)
    assert raised.value.code == "E_ENCODER_WEIGHTS"


def test_embeddings_are_float32_under_mixed_precision(presets, images):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        encoder = make(presets("dinov2")[0])
    finally:
        keras.config.set_dtype_policy("float32")
    assert encoder(images).dtype == tf.float32
    assert encoder.get_layer("trunk").get_layer("scale_pixels").compute_dtype == "float32"


@pytest.mark.parametrize(("family", "updated"), [("dinov2", 2), ("dinov3", 2), ("clip", 2), ("siglip", 2)])
def test_lora_trains_low_rank_updates_of_queries_and_values_only(presets, images, family, updated):
    encoder = make(presets(family)[0], lora_rank=3)
    trained = [weight.path for weight in encoder.trainable_weights]
    assert sum(path.endswith(("lora_kernel_a", "lora_kernel_b")) for path in trained) >= 2 * 2 * updated
    assert all({"query", "value", "q_proj", "v_proj"} & set(path.split("/")) for path in trained)
    np.testing.assert_allclose(encoder(images), make(presets(family)[0])(images), atol=1e-6)  # updates start at zero


def test_lora_is_rejected_for_an_encoder_without_attention(presets):
    with pytest.raises(UsageError, match="no query and value") as raised:
        make(presets("resnet")[0], pooling="avg", lora_rank=2)
    assert raised.value.code == "E_LORA"
    with pytest.raises(ValueError, match="negative"):
        make(presets("vit")[0], lora_rank=-1)


def test_merged_weights_are_plain_and_give_the_same_embeddings(presets, images):
    encoder = make(presets("vit")[0], lora_rank=2)
    random = np.random.default_rng(2)
    for weight in encoder.trainable_weights:
        weight.assign(random.normal(0, 0.3, weight.shape))
    merged = merge_lora(encoder)
    assert not any("lora" in weight.path for weight in merged.weights)
    assert len(merged.weights) == len(make(presets("vit")[0]).weights)
    np.testing.assert_allclose(merged(images), encoder(images), atol=1e-5)
    assert np.abs(np.asarray(encoder(images)) - make(presets("vit")[0])(images)).max() > 1e-3
    assert merge_lora(merged) is merged


@pytest.mark.thorough
def test_training_with_lora_to_a_saved_model_and_a_saved_learner(presets, store, validation_store, settings, tmp_path):
    folder, _ = presets("dinov3")
    wanted = settings(
        epochs=2,
        optimizer={"name": "adam", "learning_rate": 1e-2},
        precision="float32",
    )
    wanted["encoder"] = {
        "name": "hub:dinov3",
        "weights": str(folder),
        "embedding_size": 8,
        "pooling": "token",
        "params": {"lora_rank": 2},
    }
    learner, result = train_run(store, validation_store, **wanted)
    assert len(result.history) == 3
    pixels = store.read(np.arange(5))
    expected = np.asarray(learner.encoder(pixels))
    started = make(folder, size=16, head={"name": "plain"})
    trunk = np.asarray(started.get_layer("trunk")(pixels))
    if result.best_epoch:
        assert np.abs(np.asarray(learner.encoder.get_layer("trunk")(pixels)) - trunk).max() > 1e-4
    export_encoder(learner.encoder, tmp_path / "model", RecordSpec(16, "crop"))
    served = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_allclose(served.signatures["pixels"](tf.constant(pixels))["embeddings"], expected, atol=1e-5)
    assert not any("lora" in variable.name for variable in served.variables)
    learner.save(tmp_path / "learner.keras")
    np.testing.assert_allclose(load_learner(tmp_path / "learner.keras").encoder(pixels), expected, atol=1e-5)


def test_no_epoch_leaves_the_pretrained_encoder_as_it_is(presets, store, settings):
    folder, _ = presets("dinov3")
    wanted = settings(epochs=0)
    wanted["encoder"] = {
        "name": "hub:dinov3",
        "weights": str(folder),
        "embedding_size": 128,
        "pooling": "token",
        "head": {"name": "identity"},
    }
    learner, result = train_run(store, None, **wanted)
    assert (result.history, result.best_epoch, list(result.recipe)) == ([], 0, [])
    pixels = store.read(np.arange(4))
    np.testing.assert_allclose(learner.encoder(pixels), make(folder, size=16)(pixels), atol=1e-6)
    assert learner.encoder.output_shape == (None, 16)


def test_a_learner_of_the_trunks_own_features_can_be_trained(presets, images):
    learner = MetricLearner(make(presets("vit")[0]), ContrastiveLoss())
    learner.compile(optimizer="sgd")
    learner.fit(images, np.array([0, 1, 1]), verbose=0)


@pytest.mark.parametrize(("family", "length"), [("clip", 12), ("siglip", 8)])
def test_the_text_encoder_of_a_release_gives_the_embeddings_of_the_preset(presets, tmp_path, family, length):
    folder, backbone = presets(family)
    section = {"name": f"hub:{family}", "weights": str(folder), "pooling": "token", "head": IDENTITY}
    assert takes_text(section)
    assert export_text_encoder(section, tmp_path / "text")
    assert not list((tmp_path / "text").glob("*.h5"))
    tokens = np.asarray(load_tokenizer(tmp_path / "text")(["Red umbrella", "cat", "red umbrella"]))
    assert tokens.shape == (3, length)
    np.testing.assert_array_equal(tokens[0], tokens[2])  # both families know no capitals
    served = tf.saved_model.load(str(tmp_path / "text")).signatures["serving_default"]
    embeddings = served(token_ids=tf.constant(tokens, tf.int32))["embeddings"].numpy()
    np.testing.assert_allclose(embeddings, directions(backbone.get_text_embeddings(tokens)), atol=1e-5)


def test_only_what_the_preset_itself_gives_can_be_compared_with_texts(presets, tmp_path):
    section = {"name": "hub:clip", "pooling": "token", "head": IDENTITY}
    assert not takes_text({**section, "pooling": "avg"})
    assert not takes_text({**section, "head": {"name": "plain"}})
    assert not takes_text({**section, "name": "small"})
    folder, _ = presets("vit")
    assert not export_text_encoder({"name": "hub:vit", "weights": str(folder)}, tmp_path / "text")
    assert not (tmp_path / "text").exists()


@pytest.mark.parametrize("family", ["dinov2", "clip"])
def test_a_fetched_preset_is_the_same_encoder(presets, images, tmp_path, family):
    folder, _ = presets(family)
    fetch_preset(str(folder), tmp_path / "fetched")
    np.testing.assert_array_equal(make(tmp_path / "fetched")(images), make(folder)(images))
    if family == "clip":
        assert load_tokenizer(tmp_path / "fetched")(["red"]).shape == (1, 12)


def test_a_preset_that_cannot_be_fetched_leaves_nothing_behind(tmp_path):
    with pytest.raises(ResourceError) as raised:
        fetch_preset("no_such_preset", tmp_path / "fetched")
    assert raised.value.code == "E_ENCODER_WEIGHTS"
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough
def test_keras_hub_is_loaded_only_when_it_is_named():
    code = "import sys, anchorage.encoders, anchorage.training.run; assert 'keras_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
