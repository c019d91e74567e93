"""Pictures of vectors: their paths are known besides their ids."""

from types import SimpleNamespace

import numpy as np
import pytest

from anchorage.serving.pictures import picture_paths

GALLERY = {"id": np.array(["a", "b"], object), "attribute/path": np.array(["1.png", ""], object)}


@pytest.mark.parametrize(
    ("facts", "gallery", "expected"),
    [
        ({"experiment": {"data": {"input": "vectors"}}}, GALLERY, {"a": "1.png"}),
        ({"experiment": {"data": {"input": "vectors"}}}, {"id": GALLERY["id"]}, {}),
        ({"experiment": {"data": {"input": "images"}}}, GALLERY, {}),
        ({}, GALLERY, {}),
    ],
)
def test_only_vectors_have_paths_besides_ids(facts, gallery, expected):
    assert picture_paths(SimpleNamespace(facts=facts), gallery) == expected
