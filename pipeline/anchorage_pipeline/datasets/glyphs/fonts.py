"""The cuts of the packaged fonts: regular, heaviest and italic for each family."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from anchorage_pipeline.datasets.drawing import glyph_svg

_REGULAR, _MIN_HEAVY = 400, 600


class Cut(NamedTuple):
    """A cut of a font family; `weight` is the position on the axis of a variable font, None for other fonts."""

    family: str
    style: str
    licence: str
    distribution: str
    path: Path
    weight: int | None


class Face:
    """Draws characters in one cut.

    Attributes:
        characters: the code points of the font.
    """

    def __init__(self, cut: Cut):
        from fontTools.ttLib import TTFont

        logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns about stray bytes at the end of some fonts
        font = TTFont(cut.path, lazy=True)
        self._names = font.getBestCmap()
        self._glyphs = font.getGlyphSet(location=None if cut.weight is None else {"wght": cut.weight})
        self.characters = frozenset(self._names)

    def svg(self, character: int) -> str | None:
        """The character as SVG, cropped to its outline; None if it is empty."""
        return glyph_svg(self._glyphs[self._names[character]], self._glyphs)


def list_cuts(packages: Path) -> Iterator[Cut]:
    """All cuts in a fixed order.

    Args:
        packages: folder with the installed packages of `requirements.txt`, none of which is imported.

    Raises:
        FileNotFoundError: if there is no font package, or a font is missing.
    """
    folders = sorted(packages.glob("fontpkg_*/metadata.json"))
    if not folders:
        raise FileNotFoundError(2, "no such file", str(packages / "fontpkg_*/metadata.json"))
    for path in folders:
        yield from _cuts_of(path.parent, json.loads(path.read_text(encoding="utf-8")))


def _cuts_of(folder: Path, facts: dict) -> Iterator[Cut]:
    weight_axis = next((axis for axis in facts["axes"] if axis["tag"] == "wght"), None)

    def cut(style: str, file: dict, weight: int | None) -> Cut:
        path = folder / file["path"]
        if not path.is_file():
            raise FileNotFoundError(2, "no such file", str(path))
        return Cut(facts["slug"], style, facts["license"], f"fontpkg-{facts['slug']}", path, weight)

    upright = [file for file in facts["files"] if file["style"] == "normal"]
    italics = [file for file in facts["files"] if file["style"] == "italic"]
    if weight_axis is not None:
        yield cut("regular", upright[0], _REGULAR)
        yield cut("heavy", upright[0], int(weight_axis["max"]))
        if italics:
            yield cut("italic", italics[0], _REGULAR)
        return
    regular = min(upright, key=lambda file: abs(file["weight"] - _REGULAR))
    yield cut("regular", regular, None)
    heaviest = max(upright, key=lambda file: file["weight"])
    if heaviest["weight"] >= _MIN_HEAVY:
        yield cut("heavy", heaviest, None)
    if italics:
        yield cut("italic", min(italics, key=lambda file: abs(file["weight"] - _REGULAR)), None)
