"""Baselines that learned nothing from the training images."""

import keras
import numpy as np
import pytest

from anchorage.encoders import create_encoder
from anchorage.untrained import embed_pixels, untrained_encoders


class Images:
    """A store of these pictures."""

    def __init__(self, images):
        self.images = np.asarray(images, np.uint8)

    def __len__(self):
        return len(self.images)

    def read(self, rows):
        return self.images[rows]


def test_pixels_are_grey_averaged_and_compared_by_correlation():
    """Two by two pixels by hand; grey after ITU-R 601 is 76 for red, 150 for green and 29 for blue, rounded."""
    red, green, blue, black = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
    picture = np.array([[red, green], [blue, black]])
    [row] = embed_pixels(Images([picture]), side=2)
    grey = np.array([76, 150, 29, 0], np.float64) - 63.75
    np.testing.assert_allclose(row, grey / np.sqrt((grey**2).sum()), atol=1e-6)
    large = np.repeat(np.repeat(picture, 3, axis=0), 3, axis=1)  # every pixel nine times: the mean is the same
    np.testing.assert_allclose(embed_pixels(Images([large]), side=2), [row], atol=1e-6)


def test_pixels_ignore_brightness_and_contrast():
    random = np.random.default_rng(0)
    picture = random.integers(0, 100, (64, 64, 1)).repeat(3, axis=2)
    rows = embed_pixels(Images([picture, 2 * picture + 20, 255 - picture]))
    assert rows.shape == (3, 32 * 32)
    np.testing.assert_allclose(rows @ rows.T, [[1, 1, -1], [1, 1, -1], [-1, -1, 1]], atol=1e-3)


def test_a_picture_of_one_colour_has_no_direction():
    rows = embed_pixels(Images([np.full((16, 16, 3), 200), np.eye(16)[..., None].repeat(3, axis=2) * 255]))
    assert not rows[0].any()
    assert np.linalg.norm(rows[1]) == pytest.approx(1)


def encoder(seed):
    keras.utils.set_random_seed(seed)
    return create_encoder("small", image_size=16, embedding_size=8, widths=[4, 8], pooling="max")


def test_the_network_has_its_first_weights_within_the_block_and_its_own_afterwards():
    first, later = encoder(1), encoder(2)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    before, after = (network.predict(images, verbose=0) for network in (first, later))
    with untrained_encoders(later, first.get_weights(), pretrained=False) as found:
        assert list(found) == ["network"]
        np.testing.assert_array_equal(found["network"].predict(images, verbose=0), before)
    np.testing.assert_array_equal(later.predict(images, verbose=0), after)


def test_a_pretrained_trunk_gives_its_mean_features():
    first, later = encoder(1), encoder(2)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    expected = first.get_layer("trunk").predict(images, verbose=0).mean(axis=(1, 2))
    with untrained_encoders(later, first.get_weights(), pretrained=True) as found:
        assert list(found) == ["network", "features"]
        np.testing.assert_allclose(found["features"].predict(images, verbose=0), expected, rtol=1e-5)
