import errno
import os

import pytest
from PIL import Image

from anchorage.errors import ResourceError
from anchorage_pipeline.datasets.building import Picture, Recipe, build_set


def recipe(draw, pixels=None):
    """The credits and requirements of the places, with other images."""
    return Recipe("tiny", "anchorage_pipeline.datasets.places", "no packages", ("licence",), draw, pixels, (1, 2))


def one_image(packages, say):
    yield Picture("images/a/0.png", "a", "train", Image.new("RGB", (2, 2), (1, 2, 3)), ("MIT",))


def test_a_set_is_drawn_once(tmp_path):
    first = build_set(recipe(one_image), tmp_path / "tiny", tmp_path, say=lambda _: None)
    assert (first.classes, first.images, first.built) == (1, 1, True)
    assert (tmp_path / "tiny/manifest.csv").read_text() == "path,class,split,licence\nimages/a/0.png,a,train,MIT\n"

    def never(packages, say):
        raise AssertionError("drawn again")

    assert build_set(recipe(never), tmp_path / "tiny", tmp_path, say=lambda _: None) == first._replace(built=False)
    assert "pixels as published" in str(
        build_set(recipe(never, first.pixels), tmp_path / "tiny", tmp_path, say=lambda _: None)
    )


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, "E_DISK_FULL"), (errno.EDQUOT, "E_DISK_FULL"), (errno.EROFS, "E_DISK_REFUSED")]
)
def test_a_disk_that_refuses_leaves_the_earlier_set_as_it_was(tmp_path, number, code):
    def refused(packages, say):
        yield from one_image(packages, say)
        raise OSError(number, os.strerror(number), "images/a/1.png")

    build_set(recipe(one_image), tmp_path / "tiny", tmp_path, say=lambda _: None)
    (tmp_path / "tiny/images/a/0.png").unlink()  # so that it has to be built again
    with pytest.raises(ResourceError) as error:
        build_set(recipe(refused), tmp_path / "tiny", tmp_path, say=lambda _: None)
    assert error.value.code == code
    assert "Expected 1 MB at " in error.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert (tmp_path / "tiny/manifest.csv").is_file()
