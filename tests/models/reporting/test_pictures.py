"""Thumbnails and neighbour sheets, checked by their pixels."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from anchorage.reporting.pictures import Answered, Neighbor, draw_sheet, read_picture, thumbnail

RIGHT, WRONG = (0, 158, 115), (213, 94, 0)


def decode(uri):
    kind, _, data = uri.partition(";base64,")
    return kind, Image.open(io.BytesIO(base64.b64decode(data)))


def test_thumbnail_is_small_and_the_shorter_of_two_formats():
    flat = np.zeros((200, 100, 3), np.uint8)
    kind, picture = decode(thumbnail(flat))
    assert kind == "data:image/png"
    assert picture.size == (48, 96)
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    kind, picture = decode(thumbnail(noise))
    assert kind == "data:image/jpeg"
    assert decode(thumbnail(flat[:10, :10]))[1].size == (10, 10)


@pytest.fixture
def sheet(tmp_path):
    grey = np.full((30, 60, 3), 128, np.uint8)
    neighbors = [
        Neighbor("cat", 0.91, True, grey),
        Neighbor("dög " * 20, 0.5, False, None),
        Neighbor("", 0.1, None, grey),
    ]
    draw_sheet([Answered("query", "note", grey, neighbors), Answered("none", "", None, [])], tmp_path / "sheet.png")
    return np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB"))


def cell(sheet, place, row=0):
    """The 112 pixels of the picture at a place; place 0 is the query."""
    left = 20 + place * 126 + (14 if place else 0)
    top = 20 + row * 160
    return sheet[top : top + 113, left : left + 113]


def test_right_wrong_and_unknown_have_their_own_frames(sheet):
    right, wrong, unknown = (cell(sheet, place) for place in (1, 2, 3))
    assert (right[0] == RIGHT).all(axis=-1).all()
    dashes = (wrong[-1] == WRONG).all(axis=-1)
    assert 0.4 < dashes.mean() < 0.9
    assert not (unknown == RIGHT).all(axis=-1).any()
    assert not (unknown == WRONG).all(axis=-1).any()
    assert (unknown[0] == (213, 219, 226)).all()


def test_pictures_keep_their_shape_and_missing_ones_are_grey(sheet):
    shown = (cell(sheet, 1) == 128).all(axis=-1)
    rows, columns = np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0))
    assert len(columns) == pytest.approx(2 * len(rows), abs=6)
    assert (cell(sheet, 2)[20:40, 10:80] == (240, 242, 245)).all(axis=-1).any()


def test_sheet_of_nothing(tmp_path):
    draw_sheet([], tmp_path / "empty.png")
    assert Image.open(tmp_path / "empty.png").size[0] > 0


def test_pictures_from_files(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20), "red").save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg").shape == (40, 20, 3)
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_picture(tmp_path / "clear.png") == 255).all()
    Image.new("I;16", (300, 200)).save(tmp_path / "deep.png")
    assert max(read_picture(tmp_path / "deep.png").shape) == 112
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    assert read_picture(tmp_path / "bad.jpg") is None
    assert read_picture(tmp_path / "absent.png") is None
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\xff\xff\x00\x00\xff\xff\x08\x02\x00\x00\x00" + bytes(4)
    )
    assert read_picture(tmp_path / "bomb.png") is None
