"""Pictures of the gallery of a release of vectors."""

from types import SimpleNamespace

import numpy as np
import pytest

from anchorage_pipeline.serving.deployment import Engine, image_file


@pytest.fixture
def engine(tmp_path):
    """An engine of two vectors, the first with a picture, the second with the path of a file outside the data."""
    (tmp_path / "data/shop").mkdir(parents=True)
    (tmp_path / "data/shop/1.png").write_bytes(b"picture")
    (tmp_path / "secret").write_bytes(b"secret")
    facts = {"data_root": str(tmp_path / "data"), "experiment": {"data": {"input": "vectors"}}}
    paths = np.array(["shop/1.png", "../secret"], object)
    gallery = {"id": np.array(["a", "b"], object), "attribute/path": paths}
    return Engine(SimpleNamespace(facts=facts), None, None, None, gallery)


def test_a_vector_has_the_picture_of_its_path(engine, tmp_path):
    assert image_file(engine, "a") == tmp_path / "data/shop/1.png"
    assert image_file(engine, "b") is None
    assert image_file(engine, "shop/1.png") is None  # no id of the gallery
    assert engine.has_files


def test_vectors_without_files_have_no_pictures(engine, tmp_path):
    (tmp_path / "data/shop/1.png").unlink()
    assert not engine.has_files


@pytest.mark.parametrize("path", ["x" * 300, "a\0b", "y/" * 3000])
def test_a_text_that_names_no_file_has_no_picture(engine, path):
    engine.gallery["attribute/path"][:] = path
    assert image_file(engine, "a") is None
    assert not engine.has_files
