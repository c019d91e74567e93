"""Thumbnails for the page, and contact sheets of queries and their neighbors."""

import base64
import functools
import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from anchorage.data.limits import MAX_PIXELS
from anchorage.errors import AnchorageError
from anchorage.storage import is_remote, join, local_input

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

_CELL = 112  # side of an image on the sheet
_GAP, _TEXT, _MARGIN = 14, 34, 20
_INK, _MUTED, _PAPER, _RULE = (29, 39, 51), (91, 103, 117), (255, 255, 255), (213, 219, 226)
_RIGHT, _WRONG = (0, 158, 115), (213, 94, 0)


class Neighbor(NamedTuple):
    """A neighbor: `correct` is None if unknown; `picture` is RGB uint8, or None if missing."""

    label: str
    similarity: float
    correct: bool | None
    picture: np.ndarray | None


class Answered(NamedTuple):
    """A query with its neighbors, nearest first; `note` is shown below the query."""

    name: str
    note: str
    picture: np.ndarray | None
    neighbors: Sequence[Neighbor]


def thumbnail(image: np.ndarray, size: int = 96) -> str:
    """Encode an image of at most `size` pixels per side as a data URI, as PNG or JPEG, whichever is smaller."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((size, size))
    encoded = []
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 85})):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        encoded.append((len(buffer.getvalue()), kind, buffer.getvalue()))
    _, kind, data = min(encoded)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


class Atlas(NamedTuple):
    """Many thumbnails in one picture: a data URI, the side of a tile, the tiles of a line, the number of each by id."""

    uri: str
    side: int
    columns: int
    places: dict[str, int]


def draw_atlas(pictures: Mapping[str, np.ndarray], side: int, columns: int = 40) -> Atlas:
    """Draw pictures as tiles of `side` pixels on white, line by line: far smaller than as many thumbnails."""
    from PIL import Image

    lines = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * side, max(1, lines) * side), "white")
    for number, image in enumerate(pictures.values()):
        picture = Image.fromarray(image)
        picture.thumbnail((side - 2, side - 2))
        left, top = number % columns * side, number // columns * side
        sheet.paste(picture, (left + (side - picture.width) // 2, top + (side - picture.height) // 2))
    buffer = io.BytesIO()
    sheet.save(buffer, "jpeg", quality=80)
    uri = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Atlas(uri, side, columns, {id_: number for number, id_ in enumerate(pictures)})


def read_picture(path: str | Path, size: int = _CELL) -> np.ndarray | None:
    """Read an image file as an RGB thumbnail for display; None if it cannot be read."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                return None
            opened.draft("RGB", (size * 2, size * 2))
            upright = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    upright.thumbnail((size, size))
    white = Image.new("RGBA", upright.size, "white")
    return np.asarray(Image.alpha_composite(white, upright).convert("RGB"))


def read_picture_of(root: str, path: str) -> np.ndarray | None:
    """As `read_picture`, for a path relative to the folder of the data, which may lie in an object store."""
    if not is_remote(root):
        return read_picture(Path(root) / path)
    try:
        with local_input(join(root, path)) as file:
            return read_picture(file)
    except AnchorageError:  # a report without this picture is better than none
        return None


def draw_sheet(answers: Sequence[Answered], path: str | Path) -> None:
    """Write a PNG with one line per query, followed by its neighbors, nearest first.

    A correct neighbor has a solid frame and a tick, a wrong one a dashed
    frame and a cross, and one with unknown label a thin gray frame.
    """
    from PIL import Image, ImageDraw

    columns = max((len(answer.neighbors) for answer in answers), default=0)
    line = _CELL + _TEXT + _GAP
    width = 2 * _MARGIN + (_CELL + _GAP) * (columns + 1) + _GAP
    sheet = Image.new("RGB", (width, 2 * _MARGIN + line * max(1, len(answers)) - _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, answer in enumerate(answers):
        top = _MARGIN + number * line
        _paste(sheet, draw, answer.picture, _MARGIN, top)
        draw.rectangle((_MARGIN, top, _MARGIN + _CELL, top + _CELL), outline=_INK, width=2)
        _caption(draw, _MARGIN, top, answer.name, answer.note)
        ruler = _MARGIN + _CELL + _GAP
        draw.line((ruler, top, ruler, top + _CELL), fill=_RULE, width=2)
        for place, neighbor in enumerate(answer.neighbors):
            left = _MARGIN + (place + 1) * (_CELL + _GAP) + _GAP
            _paste(sheet, draw, neighbor.picture, left, top)
            _frame(draw, left, top, neighbor.correct)
            _caption(draw, left, top, neighbor.label, f"{neighbor.similarity:.3f}")
    sheet.save(path, "PNG")


def _paste(sheet: "Image.Image", draw: "ImageDraw.ImageDraw", picture: np.ndarray | None, left: int, top: int) -> None:
    from PIL import Image

    if picture is None:
        draw.rectangle((left, top, left + _CELL, top + _CELL), fill=(240, 242, 245))
        draw.text((left + _CELL / 2, top + _CELL / 2), "no image", fill=_MUTED, anchor="mm", font=_font(13))
        return
    image = Image.fromarray(picture)
    scale = (_CELL - 8) / max(image.size)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BICUBIC
    )
    sheet.paste(image, (left + (_CELL - image.width) // 2, top + (_CELL - image.height) // 2))


def _frame(draw: "ImageDraw.ImageDraw", left: int, top: int, correct: bool | None) -> None:
    box = (left, top, left + _CELL, top + _CELL)
    if correct is None:
        draw.rectangle(box, outline=_RULE, width=1)
        return
    color = _RIGHT if correct else _WRONG
    if correct:
        draw.rectangle(box, outline=color, width=3)
    else:
        for at in range(0, _CELL, 14):
            end = min(at + 8, _CELL)
            for y in (top + 1, top + _CELL - 1):
                draw.line((left + at, y, left + end, y), fill=color, width=3)
            for x in (left + 1, left + _CELL - 1):
                draw.line((x, top + at, x, top + end), fill=color, width=3)
    x, y, half = left + _CELL - 11, top + 11, 5
    draw.rectangle((x - 10, y - 10, x + 11, y + 10), fill=color)
    if correct:
        draw.line((x - half, y, x - 1, y + half - 1, x + half + 1, y - half), fill=_PAPER, width=2)
    else:
        draw.line((x - half, y - half, x + half, y + half), fill=_PAPER, width=2)
        draw.line((x - half, y + half, x + half, y - half), fill=_PAPER, width=2)


def _caption(draw: "ImageDraw.ImageDraw", left: int, top: int, first: str, second: str) -> None:
    font = _font(13)
    while first and draw.textlength(first, font=font) > _CELL:
        first = first[:-2] + "…" if len(first) > 2 else ""
    draw.text((left, top + _CELL + 4), first, fill=_INK, font=font)
    draw.text((left, top + _CELL + 19), second, fill=_MUTED, font=_font(12))


@functools.cache
def _font(size: int):
    from PIL import ImageFont

    # The DejaVu font of Matplotlib covers more scripts than Pillow's own font; `find_spec` does not import Matplotlib.
    spec = importlib.util.find_spec("matplotlib")
    folder = Path(str(spec and spec.origin)).parent
    return ImageFont.truetype(folder / "mpl-data/fonts/ttf/DejaVuSans.ttf", size)
