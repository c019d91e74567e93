"""The local embedder gives the same embedding of an image and of its pixels, which are decoded once."""

import numpy as np
import pytest
from releases import draw_images, publish_tiny

from anchorage.data.images import FITS, resize_image, resizer
from anchorage.release import open_release
from anchorage.serving.embedders import LocalEmbedder, _fold
from anchorage.serving.queries import QueryCheck

PICTURES = draw_images(5)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedder")
    publish_tiny(folder, PICTURES)
    return LocalEmbedder(open_release(folder / "releases"))


def test_pixels_and_bytes_have_the_same_embedding(embedder):
    check = QueryCheck({}, {"image_size": 4, "fit": "squash"}, embedder)
    records = [check(picture).record for picture in PICTURES]
    assert {record.shape for record in records} == {(4, 4, 3)}
    np.testing.assert_array_equal(embedder.embed(records), embedder.embed(PICTURES))


def test_a_checked_image_is_not_decoded_again(embedder, monkeypatch):
    record = QueryCheck({}, {"image_size": 4, "fit": "squash"}, embedder)(PICTURES[0]).record
    monkeypatch.setattr(embedder, "_embed", None)  # the signature that decodes
    assert embedder.embed([record]).shape == (1, embedder.dimension)


def test_the_image_itself_is_embedded_where_its_size_is_not_known(embedder):
    """Releases of earlier formats do not say how their images were resized."""
    assert QueryCheck({}, {}, embedder)(PICTURES[0]).record == PICTURES[0]


def test_a_bad_image_is_refused_before_the_model(embedder):
    record, rows, fault, _ = QueryCheck({}, {"image_size": 4, "fit": "squash"}, embedder)(b"no image")
    assert (record, rows, fault.code) == (b"no image", [], "E_IMAGE_FORMAT")


def test_folded_weights_change_no_embedding(embedder, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    expected = embedder._model.signatures["pixels"](images=pixels)["embeddings"]
    np.testing.assert_allclose(embedder.embed(pixels), expected, atol=1e-6)
    monkeypatch.setattr("anchorage.serving.embedders._FOLDED_BYTES", 0)  # of a large network they are not folded
    np.testing.assert_allclose(_fold(embedder._model.signatures["pixels"])(pixels)["embeddings"], expected, atol=1e-6)


@pytest.mark.parametrize("fit", FITS)
def test_the_graph_of_a_resize_gives_its_very_pixels(fit):
    """A query is recognized in the gallery by its pixels, which were resized outside a graph."""
    random = np.random.default_rng(0)
    for height, width in random.integers(5, 90, (8, 2)):
        image = random.integers(0, 256, (height, width, 3), np.uint8)
        np.testing.assert_array_equal(resizer(16, fit)(image), resize_image(image, 16, fit))
