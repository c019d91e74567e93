"""EfficientNet-Lite0 against another implementation run by PyTorch."""

import keras
import numpy as np
import pytest

from anchorage.encoders import create_encoder, efficientnet_lite
from anchorage.errors import DataError, ResourceError, UsageError


@pytest.fixture(scope="module")
def pretrained():
    return create_encoder("efficientnet_lite0", image_size=96, embedding_size=8, weights="imagenet")


def test_features_are_those_of_pytorch(pretrained):
    """Mean over the positions of the last feature map, for a drawn picture.

    The numbers were made with torch 2.13.0 and the package efficientnet-lite-pytorch 0.1.0: its own network, its
    weights loaded by `torch.load(weights_only=True)`, input `(rgb - 127) / 128`.
    """
    y, x = np.mgrid[0:96, 0:96]
    disc = 255 * ((x - 48) ** 2 + (y - 40) ** 2 < 900)
    image = np.stack([(3 * x + 5 * y) % 256, (x * y // 7) % 256, disc], axis=-1).astype("uint8")
    pooled = np.asarray(pretrained.get_layer("trunk")(image[None]))[0].mean(axis=(0, 1))
    every_80th = [0.0, 0.0, 1.035644, 0.0, 0.0, 0.691298, 0.0, 3.72069]
    every_80th += [0.0, 0.344657, 1.158696, 0.0, 0.0, 2.544816, 0.0, 0.0]
    np.testing.assert_allclose(pooled[::80], every_80th, atol=5e-5)
    assert float(pooled.sum()) == pytest.approx(637.6286, abs=2e-3)
    assert int(pooled.argmax()) == 245


def test_has_the_published_number_of_weights(pretrained):
    trunk = pretrained.get_layer("trunk")
    assert len(trunk.weights) == 245
    assert trunk.count_params() == 3_413_024
    assert trunk.output_shape == (None, 3, 3, 1280)


def test_stored_normalisation_is_frozen_unless_asked(pretrained):
    def norms(encoder):
        return [layer for layer in encoder.get_layer("trunk").layers if "norm" in layer.name]

    assert len(norms(pretrained)) == 49
    assert not any(layer.trainable for layer in norms(pretrained))
    fresh = create_encoder("efficientnet_lite0", image_size=32, embedding_size=8)
    assert all(layer.trainable for layer in norms(fresh))


def test_frozen_statistics_survive_training(pretrained):
    norm = pretrained.get_layer("trunk").get_layer("stem_norm")
    before = [np.array(w) for w in norm.weights]
    pretrained(np.zeros((2, 96, 96, 3), "uint8"), training=True)
    assert all(np.array_equal(a, b) for a, b in zip(before, norm.weights, strict=True))


def test_saved_and_loaded_with_its_weights(pretrained, tmp_path):
    pretrained.save(tmp_path / "encoder.keras")
    again = keras.models.load_model(tmp_path / "encoder.keras")
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype="uint8")
    np.testing.assert_array_equal(pretrained(images), again(images))


def test_other_weights_are_refused(monkeypatch, tmp_path):
    with pytest.raises(UsageError, match=r"E_ENCODER_WEIGHTS: Expected weights None or 'imagenet'\. Received: 'noisy'"):
        create_encoder("efficientnet_lite0", image_size=32, embedding_size=8, weights="noisy")
    monkeypatch.setattr(efficientnet_lite, "_PACKAGE", "no_such_package")
    with pytest.raises(ResourceError, match=r"E_ENCODER_WEIGHTS: .* Install the package no-such-package"):
        create_encoder("efficientnet_lite0", image_size=32, embedding_size=8, weights="imagenet")
    (tmp_path / "other.pth").write_bytes(b"other")
    monkeypatch.setattr(efficientnet_lite, "_weights_file", lambda: tmp_path / "other.pth")
    with pytest.raises(DataError, match="E_WEIGHTS_HASH"):
        create_encoder("efficientnet_lite0", image_size=32, embedding_size=8, weights="imagenet")
