"""Trunks by name: pixels scaled as each network expects, and sizes known from elsewhere."""

import sys
from itertools import pairwise

import keras
import numpy as np
import pytest

from anchorage.encoders import create_encoder
from anchorage.encoders.backbones import ScalePixels, application_names, application_trunk
from anchorage.errors import ResourceError, UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype="uint8")


def test_small_has_the_stated_size():
    # 3x3 convolutions 3-32-64-64-128-128-256-256 without bias, four numbers a channel in batch normalisation
    widths = [3, 32, 64, 64, 128, 128, 256, 256]
    convolutions = sum(9 * a * b for a, b in pairwise(widths))
    encoder = create_encoder("small", image_size=64, embedding_size=128)
    assert encoder.count_params() == convolutions + 4 * sum(widths[1:]) + 256 * 128 + 128 == 1_198_688
    assert encoder.get_layer("trunk").output_shape == (None, 8, 8, 256)


def test_bytes_and_floats_give_the_same_embeddings():
    encoder = create_encoder("small", image_size=32, embedding_size=8, widths=(8, 16))
    np.testing.assert_array_equal(encoder(PIXELS), encoder(PIXELS.astype("float32")))
    assert keras.backend.standardize_dtype(encoder.output.dtype) == "float32"


def test_saved_and_loaded(tmp_path):
    encoder = create_encoder("small", image_size=32, embedding_size=8, widths=(8, 16), pooling="gem")
    encoder.save(tmp_path / "encoder.keras")
    again = keras.models.load_model(tmp_path / "encoder.keras")
    np.testing.assert_array_equal(encoder(PIXELS), again(PIXELS))


def test_small_refuses_what_it_cannot_do():
    with pytest.raises(UsageError, match="E_ENCODER_WEIGHTS: Encoder 'small' has no stored weights"):
        create_encoder("small", image_size=32, embedding_size=8, weights="imagenet")
    with pytest.raises(UsageError, match="E_IMAGE_SIZE: 4 stages need an image size of at least 8"):
        create_encoder("small", image_size=4, embedding_size=8)


def test_pixels_are_reversed_before_scaling():
    scaled = ScalePixels(scale=[1.0, 2.0, 3.0], offset=[0.5, 0.0, 0.0], reverse=True)(np.array([[[[10, 20, 30]]]]))
    np.testing.assert_array_equal(scaled, [[[[30.5, 40.0, 30.0]]]])


@pytest.mark.parametrize("name", ["ResNet50", "DenseNet121", "MobileNetV2", "MobileNetV3Small"])
def test_scaling_is_that_of_keras(name):
    """One network of each kind: BGR without mean, mean and deviation, -1 to 1, and scaling inside the network."""
    pixels = keras.Input((32, 32, 3))
    first = keras.Model(pixels, application_trunk(name, pixels)).get_layer("scale_pixels")
    wanted = sys.modules[getattr(keras.applications, name).__module__].preprocess_input(PIXELS.astype("float32"))
    np.testing.assert_allclose(first(PIXELS), wanted, atol=2e-4)


def test_any_keras_application():
    assert {"ResNet50", "EfficientNetB0", "ConvNeXtTiny"} <= set(application_names())
    encoder = create_encoder("MobileNet", image_size=32, embedding_size=8, alpha=0.25)
    assert encoder(PIXELS).shape == (3, 8)


def test_missing_weights_of_a_keras_application(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("URL fetch failure on https://storage.example: no route")

    module = sys.modules[keras.applications.MobileNet.__module__]
    monkeypatch.setattr(module.file_utils, "get_file", offline)
    with pytest.raises(ResourceError, match=r"E_ENCODER_WEIGHTS: The 'imagenet' weights of MobileNet could not be"):
        create_encoder("MobileNet", image_size=32, embedding_size=8, weights="imagenet")


def test_unknown_names_and_parameters_are_named():
    with pytest.raises(UsageError, match="E_NAME_UNKNOWN: Unknown encoder 'resnet50'"):
        create_encoder("resnet50", image_size=32, embedding_size=8)
    with pytest.raises(UsageError, match=r"Encoder 'small' takes \['widths', 'momentum'\]\. Received unknown: \['wid"):
        create_encoder("small", image_size=32, embedding_size=8, width=3)
    with pytest.raises(UsageError, match=r"Received unknown: \['alpa'\]"):
        create_encoder("MobileNet", image_size=32, embedding_size=8, alpa=0.25)


def test_a_trunk_of_ones_own():
    encoder = create_encoder("anchorage.encoders.backbones:small_trunk", image_size=32, embedding_size=8, widths=(4,))
    assert encoder.get_layer("trunk").output_shape == (None, 32, 32, 4)
