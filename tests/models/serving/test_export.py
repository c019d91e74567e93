"""The exported model answers for bytes as the encoder does for the pixels that training reads."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from anchorage.data.images import load_image
from anchorage.data.store import RecordSpec
from anchorage.encoders import create_encoder
from anchorage.release import fingerprint_model
from anchorage.serving.export import export_encoder

SIZE = 16


def encoded(width, height, kind):
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype="uint8")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


IMAGES = [encoded(40, 30, "PNG"), encoded(21, 50, "JPEG"), encoded(16, 16, "GIF")]


@pytest.fixture(scope="module", params=["crop", "pad"])
def exported(request, tmp_path_factory):
    encoder = create_encoder("small", image_size=SIZE, embedding_size=6, widths=(4, 8), pooling="gem")
    folder = tmp_path_factory.mktemp("export") / "1"
    export_encoder(encoder, folder, RecordSpec(SIZE, request.param))
    return encoder, tf.saved_model.load(str(folder)), request.param


def test_bytes_and_pixels_agree_with_the_encoder(exported):
    encoder, model, fit = exported
    pixels = np.stack([load_image(data, SIZE, fit) for data in IMAGES])
    wanted = np.asarray(encoder(pixels))
    from_bytes = model.signatures["serving_default"](images=tf.constant(IMAGES))
    from_pixels = model.signatures["pixels"](images=tf.constant(pixels))
    for outputs in (from_bytes, from_pixels):
        assert list(outputs) == ["embeddings"]
        assert outputs["embeddings"].dtype == tf.float32
        np.testing.assert_allclose(outputs["embeddings"], wanted, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(wanted, axis=1), 1, atol=1e-6)


def test_signatures_are_strict(exported):
    _, model, _ = exported
    signature = model.signatures["pixels"].structured_input_signature[1]["images"]
    assert (signature.shape.as_list(), signature.dtype) == ([None, SIZE, SIZE, 3], tf.uint8)
    assert model.signatures["serving_default"](images=tf.constant([], tf.string))["embeddings"].shape == (0, 6)
    with pytest.raises(tf.errors.InvalidArgumentError):
        model.signatures["serving_default"](images=tf.constant([b"no image"]))


def test_a_trained_bfloat16_encoder_answers_in_float32(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        encoder = create_encoder("small", image_size=SIZE, embedding_size=6, widths=(4, 8))
        export_encoder(encoder, tmp_path / "1", RecordSpec(SIZE))
    finally:
        keras.config.set_dtype_policy(before)
    answer = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"](images=tf.constant(IMAGES))
    assert answer["embeddings"].dtype == tf.float32
    pixels = np.stack([load_image(data, SIZE, "crop") for data in IMAGES])
    np.testing.assert_allclose(answer["embeddings"], encoder(pixels), atol=2e-2)


def test_two_exports_of_one_model_have_one_fingerprint_and_others_have_others(tmp_path):
    options = {"image_size": SIZE, "embedding_size": 6, "widths": (4, 8), "pooling": "gem"}
    encoder, twin = create_encoder("small", **options), create_encoder("small", **options)  # with other names within
    changed = create_encoder("small", **options, normalize=False)
    twin.set_weights(encoder.get_weights())
    changed.set_weights(encoder.get_weights())

    def fingerprint(model, fit="crop"):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        export_encoder(model, folder, RecordSpec(SIZE, fit))
        return fingerprint_model(folder)

    first = fingerprint(encoder)
    assert fingerprint(twin) == first
    assert fingerprint(changed) != first  # the same weights in another network
    assert fingerprint(encoder, fit="pad") != first
    weights = twin.get_weights()
    weights[0].flat[3] += 1e-3
    twin.set_weights(weights)
    assert fingerprint(twin) != first
