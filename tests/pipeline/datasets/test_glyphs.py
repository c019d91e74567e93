import csv
import json
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from anchorage.errors import DataError
from anchorage_pipeline.datasets.building import build_set
from anchorage_pipeline.datasets.glyphs.build import _recipe, build_glyphs
from anchorage_pipeline.datasets.glyphs.classes import (
    Cut,
    class_name,
    draw_characters,
    drop_lookalikes,
    is_candidate,
    script,
    split_into_halves,
)
from anchorage_pipeline.datasets.glyphs.fonts import Face, list_cuts

# Six shapes that differ enough to count as different drawings, as outlines of a font
SHAPES = {
    "wedge": [[(0, 0), (0, 800), (800, 0)]],
    "roof": [[(0, 0), (400, 800), (800, 0)]],
    "bar": [[(0, 300), (0, 500), (800, 500), (800, 300)], [(300, 0), (300, 800), (500, 800), (500, 0)]],
    "frame": [[(0, 0), (0, 800), (800, 800), (800, 0)], [(100, 100), (700, 100), (700, 700), (100, 700)]],
    "gem": [[(0, 400), (400, 800), (800, 400), (400, 0)]],
    "stairs": [[(0, 0), (0, 260), (270, 260), (270, 530), (540, 530), (540, 800), (800, 800), (800, 0)]],
    "stripes": [[(0, 0), (0, 100), (800, 100), (800, 0)], [(0, 700), (0, 800), (800, 800), (800, 700)]],
    "hook": [[(0, 0), (0, 800), (150, 800), (150, 150), (800, 150), (800, 0)]],
}


ALPHA = "\N{GREEK CAPITAL LETTER ALPHA}"


def write_font(path, characters):
    """A font with the given shape for each character."""

    def glyph(contours):
        pen = TTGlyphPen(None)
        for first, *rest in contours:
            pen.moveTo(first)
            for point in rest:
                pen.lineTo(point)
            pen.closePath()
        return pen.glyph()

    names = {character: f"u{character:04X}" for character in characters}
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", *names.values()])
    font.setupCharacterMap(names)
    shapes = {names[character]: glyph(SHAPES[shape]) for character, shape in characters.items()}
    font.setupGlyf({".notdef": glyph([]), **shapes})
    font.setupHorizontalMetrics(dict.fromkeys([".notdef", *names.values()], (900, 0)))
    font.setupHorizontalHeader()
    font.setupPost()
    font.save(path)


def write_package(folder, family, characters, **facts):
    """A font package of one family with one file of one weight, or with the given files."""
    home = folder / f"fontpkg_{family.replace('-', '_')}"
    (home / "files").mkdir(parents=True)
    files = [{"path": "files/R.ttf", "style": "normal", "weight": 400}]
    facts = {"slug": family, "license": "OFL-1.1", "axes": [], "files": files} | facts
    for file in facts["files"]:
        write_font(home / file["path"], characters)
    (home / "metadata.json").write_text(json.dumps(facts))


def faces_of(**families):
    """Faces from the name of a family to what it draws for each character."""

    class Stub:
        def __init__(self, shapes):
            self.characters = frozenset(map(ord, shapes))
            self._shapes = shapes

        def svg(self, character):
            contours = SHAPES[self._shapes[chr(character)]]
            path = "".join("M" + "L".join(f"{x} {y}" for x, y in contour) + "Z" for contour in contours)
            return (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 800">'
                f'<path fill-rule="evenodd" d="{path}"/></svg>'
            )

    return [
        (Cut(name.replace("_", "-"), "regular", "OFL-1.1", "p", Path(), None), Stub(shapes))
        for name, shapes in families.items()
    ]


@pytest.mark.parametrize(
    ("text", "candidate"),
    [
        *(("A", True), ("ж", True), ("ש", True), ("7", True), ("&", True), ("€", True), ("→", True)),
        *(("é", False), ("²", False), (" ", False), ("\u0301", False), ("█", False), ("ɐ", False), ("\ue000", False)),
    ],
)
def test_candidates_are_plain_characters_of_common_scripts(text, candidate):
    assert is_candidate(ord(text)) is candidate


def test_names_and_scripts_come_from_unicode():
    assert class_name(ord("ж")) == "cyrillic-small-letter-zhe"
    assert class_name(0x6F4) == "extended-arabic-indic-digit-four"
    assert [script(ord(text)) for text in "aΩ7&"] == ["latin", "greek", "other", "other"]


def test_classes_need_families_and_different_drawings():
    shapes = list(SHAPES)
    six = {f"f{number}": {"A": shapes[number], "B": shapes[number % 5]} for number in range(6)}
    drawings, twins = draw_characters(faces_of(**six))
    assert list(drawings) == [ord("A")]
    assert sorted(glyph.cut.family for glyph in drawings[ord("A")]) == sorted(six)
    assert twins == 1  # the second B of the first shape, so that five are left
    four = {f"f{number}": {"A": shapes[number]} for number in range(4)}
    assert draw_characters(faces_of(**four)) == ({}, 0)


def test_no_class_gets_more_than_eight_drawings():
    shapes = list(SHAPES)
    assert len(shapes) == 8
    many = {f"f{number}": {"A": shapes[number % 8]} for number in range(12)}
    drawings, _ = draw_characters(faces_of(**many))
    assert 6 <= len(drawings[ord("A")]) <= 8


def test_of_characters_of_one_shape_the_first_is_kept():
    shapes = list(SHAPES)
    apart = {f"f{n}": {"A": shapes[n], ALPHA: shapes[n], "Ж": shapes[(n + 1) % 6]} for n in range(6)}
    faces = faces_of(**apart)
    drawings, _ = draw_characters(faces)
    # each Zhe is some A's drawing in another font, and Alpha is A
    assert list(map(chr, drawings)) == ["A", ALPHA, "Ж"]
    assert list(map(chr, drop_lookalikes(drawings, faces))) == ["A"]


def test_a_font_of_many_scripts_shows_that_two_characters_have_one_shape():
    characters = {"A": "wedge", ALPHA: "wedge", "Ж": "bar"}
    shapes = list(SHAPES)
    own, _ = draw_characters(faces_of(**{f"f{n}": {"A": shapes[n]} for n in range(6)}))
    glyphs = own[ord("A")]
    drawings = {ord("A"): glyphs[:2], ord(ALPHA): glyphs[2:4], ord("Ж"): glyphs[4:]}
    assert len(drop_lookalikes(drawings, [])) == 3
    probe = faces_of(noto_serif=characters)
    assert list(map(chr, drop_lookalikes(drawings, probe))) == ["A", "Ж"]


def test_upper_and_lower_case_stay_on_one_side():
    shapes = list(SHAPES)
    own, _ = draw_characters(faces_of(**{f"f{n}": {"A": shapes[n]} for n in range(6)}))
    glyphs = own[ord("A")]
    drawings = dict(zip(map(ord, "ABXab"), ([glyph] for glyph in glyphs), strict=False))
    sides = {chr(character): side for character, side in split_into_halves(drawings).items()}
    assert sides["A"] == sides["a"] != sides["B"] == sides["b"]
    assert sides["X"] in ("train", "test")


def test_cuts_are_regular_heavy_and_italic(tmp_path):
    def file(name, style, weight):
        return {"path": f"files/{name}.ttf", "style": style, "weight": weight}

    still = [file("L", "normal", 300), file("M", "normal", 450), file("B", "normal", 800), file("I", "italic", 400)]
    write_package(tmp_path, "still-one", {65: "bar"}, files=still)
    moving = [file("V", "normal", None), file("W", "italic", None)]
    axes = [{"tag": "wght", "min": 200.0, "max": 900.0}]
    write_package(tmp_path, "moving-one", {65: "bar"}, files=moving, axes=axes)
    cuts = [(cut.family, cut.style, cut.path.stem, cut.weight, cut.distribution) for cut in list_cuts(tmp_path)]
    assert cuts == [
        ("moving-one", "regular", "V", 400, "fontpkg-moving-one"),
        ("moving-one", "heavy", "V", 900, "fontpkg-moving-one"),
        ("moving-one", "italic", "W", 400, "fontpkg-moving-one"),
        ("still-one", "regular", "M", None, "fontpkg-still-one"),
        ("still-one", "heavy", "B", None, "fontpkg-still-one"),
        ("still-one", "italic", "I", None, "fontpkg-still-one"),
    ]


def test_a_face_draws_what_it_has(tmp_path):
    write_package(tmp_path, "one", {65: "bar"})
    face = Face(next(list_cuts(tmp_path)))
    assert face.characters == {65}
    assert 'viewBox="0 -800 800 800"' in face.svg(65)


def test_packages_become_a_data_set(tmp_path):
    for number, shape in enumerate(list(SHAPES)[:6]):
        write_package(tmp_path / "packages", f"family-{number}", {0x416: shape, 0x20: "bar"})
    summary = build_set(_recipe(None), tmp_path / "glyphs", tmp_path / "packages", say=lambda _: None)
    assert (summary.classes, summary.images, summary.built) == (1, 6, True)
    with (tmp_path / "glyphs/manifest.csv").open(newline="") as handle:
        rows = {row["path"]: row for row in csv.DictReader(handle)}
    assert rows["images/cyrillic-capital-letter-zhe/family-3__regular.png"] == {
        "path": "images/cyrillic-capital-letter-zhe/family-3__regular.png",
        **{"class": "cyrillic-capital-letter-zhe", "split": "train", "script": "cyrillic", "character": "U+0416"},
        **{"family": "family-3", "style": "regular", "distribution": "fontpkg-family-3", "licence": "OFL-1.1"},
    }
    assert {Image.open(tmp_path / "glyphs" / path).size for path in rows} == {(96, 96)}
    with pytest.raises(DataError, match="E_DATA_DIGEST"):
        build_glyphs(tmp_path / "other", tmp_path / "packages", say=lambda _: None)


def test_rejects_too_few_or_missing_fonts(tmp_path):
    with pytest.raises(DataError, match=r"E_PACKAGES_MISSING: Expected 60 font packages"):
        build_glyphs(tmp_path / "glyphs", tmp_path, say=lambda _: None)
    write_package(tmp_path, "one", {65: "bar"})
    with pytest.raises(DataError, match="E_GLYPHS_EMPTY"):
        build_glyphs(tmp_path / "glyphs", tmp_path, say=lambda _: None)
    (tmp_path / "fontpkg_one/files/R.ttf").unlink()
    with pytest.raises(DataError, match=r"E_PACKAGES_MISSING: .*no .*R.ttf"):
        build_glyphs(tmp_path / "glyphs", tmp_path, say=lambda _: None)
    assert not (tmp_path / "glyphs").exists()
