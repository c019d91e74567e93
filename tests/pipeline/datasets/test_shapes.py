import numpy as np
import pytest
from PIL import Image

from anchorage.errors import UsageError
from anchorage_pipeline.datasets.shapes import draw_shapes


def test_same_seed_same_pixels_other_seed_others(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert draw_shapes(tmp_path / name, per_class=1, seed=seed) == 24
    a, b, c = (np.asarray(Image.open(tmp_path / name / "star-blue/000.png")) for name in "abc")
    assert (a == b).all()
    assert (a != c).any()


def test_a_drawing_replaces_an_earlier_one_but_nothing_else(tmp_path):
    draw_shapes(tmp_path / "shapes", per_class=2)
    draw_shapes(tmp_path / "shapes", per_class=1)
    assert len(list((tmp_path / "shapes").rglob("*.png"))) == 24
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="E_OUTPUT_EXISTS"):
        draw_shapes(tmp_path / "mine")
