"""Select the characters and drawings of the data set, and split the characters into halves."""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from anchorage.progress import track
from anchorage_pipeline.datasets.drawing import draw, signature
from anchorage_pipeline.datasets.glyphs.fonts import Cut, Face

MIN_PER_CLASS, MAX_PER_CLASS = 6, 8
MIN_FAMILIES = 5  # minimum number of font families per character
SIZE = 96

_BLOCKS = (  # ASCII and Latin, Greek, Cyrillic, Hebrew, Arabic, Devanagari, Thai, signs and arrows
    *((0x21, 0x17F), (0x370, 0x3FF), (0x400, 0x45F), (0x48A, 0x4FF), (0x5D0, 0x5F4), (0x600, 0x6FF)),
    *((0x900, 0x97F), (0xE01, 0xE5B), (0x2010, 0x24FF), (0x25A0, 0x27FF)),
)
_PROBES = ("noto-serif", "noto-sans", "noto-sans-arabic", "noto-sans-thai", "frank-ruhl-libre", "heebo")
_TRIES = 14  # maximum number of drawings to try per class
_TWIN = 0.95  # correlation above which two drawings of a class are near-duplicates
_PROBE_SAME = 0.85  # correlation above which two characters of one font have the same shape
_SAME, _AKIN = 0.9, 0.85  # the same across fonts, and the correlation above which characters stay in one half
_SHARE = 0.3  # minimum share of the drawings of a class above such a correlation


class Glyph(NamedTuple):
    """A character in one cut of a font."""

    cut: Cut
    image: Image.Image
    signature: np.ndarray


def is_candidate(character: int) -> bool:
    """Whether a character is a letter, digit, punctuation mark or symbol of a common script, and not composed."""
    text = chr(character)
    category = unicodedata.category(text)
    drawn = category[0] in "LNPS" and category not in ("Lm", "Sk")
    common = any(first <= character <= last for first, last in _BLOCKS)
    return drawn and common and not unicodedata.decomposition(text)


def class_name(character: int) -> str:
    """The Unicode name as a folder name.

    Example:
        >>> class_name(0x416)
        'cyrillic-capital-letter-zhe'
    """
    return re.sub(r"[^a-z0-9]+", "-", unicodedata.name(chr(character)).lower())


def script(character: int) -> str:
    """The script of a letter, "other" for other characters; for slices of the evaluation.

    Example:
        >>> script(0x416), script(0x37)
        ('cyrillic', 'other')
    """
    word = unicodedata.name(chr(character)).split()[0].split("-")[0].lower()
    return word if unicodedata.category(chr(character))[0] == "L" else "other"


def draw_characters(faces: Sequence[tuple[Cut, Face]]) -> tuple[dict[int, list[Glyph]], int]:
    """Draw every character that enough families have, each in its own selection of fonts.

    Args:
        faces: all cuts.

    Returns:
        The drawings of each character, and the number of near-duplicates dropped.
    """
    owners = defaultdict(list)
    for cut, face in faces:
        for character in face.characters:
            owners[character].append((cut, face))
    wanted = [
        character
        for character, cuts in sorted(owners.items())
        if is_candidate(character) and len({cut.family for cut, _ in cuts}) >= MIN_FAMILIES
    ]
    kept, twins = {}, 0
    for character in track(wanted, "characters"):
        glyphs, dropped = _draw_one(character, owners[character])
        twins += dropped
        if len(glyphs) >= MIN_PER_CLASS and len({glyph.cut.family for glyph in glyphs}) >= MIN_FAMILIES:
            kept[character] = glyphs
    return kept, twins


def drop_lookalikes(drawings: dict[int, list[Glyph]], faces: Sequence[tuple[Cut, Face]]) -> dict[int, list[Glyph]]:
    """Keep one character of each shape: the first of A, Alpha and the Cyrillic A, or of c and C.

    Two characters have the same shape if they look alike in a font that covers many scripts, or if enough of their
    drawings do.

    Args:
        drawings: drawings by character, preferred characters first.
        faces: all cuts.
    """
    characters = list(drawings)
    likeness = _likeness(drawings, _SAME)
    for cut, face in faces:
        if cut.family in _PROBES and cut.style == "regular":
            likeness |= _likeness_in(face, characters)
    kept: list[int] = []
    for number in range(len(characters)):
        if not any(likeness[number, other] for other in kept):
            kept.append(number)
    return {characters[number]: drawings[characters[number]] for number in kept}


def split_into_halves(drawings: dict[int, list[Glyph]]) -> dict[int, str]:
    """Split the characters into halves; upper and lower case, and similar characters, stay in one half."""
    characters = list(drawings)
    groups = _connect(_likeness(drawings, _AKIN), [chr(character).lower() for character in characters])
    total, sides = {"train": 0, "test": 0}, {}
    for group in sorted(groups, key=lambda members: (-len(members), members)):
        side = "train" if total["train"] <= total["test"] else "test"
        for number in group:
            sides[characters[number]] = side
            total[side] += len(drawings[characters[number]])
    return sides


def _draw_one(character: int, owners: Iterable[tuple[Cut, Face]]) -> tuple[list[Glyph], int]:
    """Up to `MAX_PER_CLASS` different drawings, one per family before any second one."""

    def random_key(cut: Cut) -> str:
        return hashlib.sha256(f"{character} {cut.family} {cut.style}".encode()).hexdigest()

    seen: defaultdict[str, int] = defaultdict(int)
    ranked = []
    for cut, face in sorted(owners, key=lambda owner: random_key(owner[0])):
        ranked.append((seen[cut.family], random_key(cut), cut, face))
        seen[cut.family] += 1
    glyphs: list[Glyph] = []
    dropped = 0
    for _, _, cut, face in sorted(ranked, key=lambda row: row[:2])[:_TRIES]:
        svg = face.svg(character)
        image = None if svg is None else draw(svg, SIZE)
        if image is None:
            continue
        sign = signature(image)
        if any(float(sign @ glyph.signature) > _TWIN for glyph in glyphs):
            dropped += 1
        else:
            glyphs.append(Glyph(cut, image, sign))
        if len(glyphs) == MAX_PER_CLASS:
            break
    return glyphs, dropped


def _likeness_in(face: Face, characters: list[int]) -> np.ndarray:
    """For each pair of characters, whether they look alike in a font."""
    signs = np.zeros((len(characters), 32 * 32))
    for number, character in enumerate(characters):
        svg = face.svg(character) if character in face.characters else None
        image = None if svg is None else draw(svg, SIZE)
        if image is not None:
            signs[number] = signature(image)
    return signs @ signs.T > _PROBE_SAME


def _likeness(drawings: dict[int, list[Glyph]], threshold: float) -> np.ndarray:
    """For each pair of characters, whether a `_SHARE` of one's drawings match any drawing of the other."""
    signs = np.stack([glyph.signature for glyphs in drawings.values() for glyph in glyphs])
    starts = np.cumsum([0] + [len(glyphs) for glyphs in drawings.values()])[:-1]
    near = np.maximum.reduceat(signs @ signs.T, starts, axis=1) > threshold
    share = np.add.reduceat(near.astype(np.int64), starts, axis=0) / [[len(glyphs)] for glyphs in drawings.values()]
    return (share >= _SHARE) | (share.T >= _SHARE)


def _connect(linked: np.ndarray, names: list[str]) -> list[list[int]]:
    """Connected components of links and equal names, each sorted."""
    from scipy.sparse.csgraph import connected_components

    same_name = np.array([[one == other for other in names] for one in names])
    count, labels = connected_components(linked | same_name, directed=False)
    return [np.flatnonzero(labels == number).tolist() for number in range(count)]
