import csv
import hashlib
import json
import zipfile

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

import anchorage_pipeline.datasets.icons.build as build
from anchorage.errors import DataError, ResourceError, UsageError
from anchorage_pipeline.datasets.drawing import draw, signature
from anchorage_pipeline.datasets.icons.build import build_icons
from anchorage_pipeline.datasets.icons.classes import collect_drawings, select_pictures, split_into_halves
from anchorage_pipeline.datasets.icons.names import ConceptNames
from anchorage_pipeline.datasets.icons.sources import Family, from_font, icon_families
from anchorage_pipeline.datasets.packages import fetch_packages

# Shapes that differ enough to count as different drawings
SHAPES = {
    "disc": '<circle cx="12" cy="12" r="11"/>',
    "ring": '<circle cx="12" cy="12" r="9" fill="none" stroke="#000" stroke-width="3"/>',
    "bar": '<rect x="9" width="6" height="24"/><rect y="9" width="24" height="6"/>',
    "wedge": '<path d="M0 24 L24 24 L0 0 Z"/>',
    "roof": '<path d="M0 24 L12 0 L24 24 Z"/>',
    "steps": '<path d="M0 0 H8 V8 H16 V16 H24 V24 H0 Z"/><circle cx="20" cy="4" r="4"/>',
}


def svg(shape):
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24">{SHAPES[shape]}</svg>'


def family(name, **shapes):
    return Family(name, "line", "MIT", f"{name}-package", [(icon, svg(shape)) for icon, shape in shapes.items()])


def four_families():
    """Two concepts, `key` and `house`, by four hands each; one key is drawn twice alike, one like a house."""
    return [
        family("lucide", key="disc", home="bar"),
        family("tabler", key="ring", house="wedge"),
        family("mdi", key="disc", home="roof", shop="disc"),
        family("eva", key="bar", **{"home-outline": "steps"}),
        family("weather", key="steps", **{"wi-house": "ring"}),
        family("remix", key="wedge"),
    ]


@pytest.mark.parametrize(
    ("hand", "name", "concept"),
    [
        ("tabler", "house", "home"),
        ("phosphor", "Magnifying_Glass-fill", "search"),
        ("fluent", "ic_fluent_mail_24_regular", "envelope"),
        ("eva", "eva-trash-2-outline", "trash"),
        ("mdi", "dice-2", "dice-2"),
        ("lucide", "bolt", None),
        ("tabler", "bolt", "lightning"),
        ("tabler", "github", None),
        ("mdi", "filter", "funnel"),
        ("eva", "filter", None),
    ],
)
def test_names_become_concepts(hand, name, concept):
    assert ConceptNames().concept(hand, name) == concept


def test_drawing_is_cut_to_its_ink_and_centred():
    flat = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><rect x="1" y="2" width="8" height="4"/></svg>'
    page = np.asarray(draw(flat, 48))
    ink = np.argwhere(page[..., 0] < 128)
    assert page.shape == (48, 48, 3)
    assert (ink.min(0).tolist(), ink.max(0).tolist()) == ([14, 4], [33, 43])  # 40 wide, 20 high, margin 48 / 12
    assert draw('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"/>', 48) is None


def test_signatures_are_correlations():
    one, other = (signature(draw(svg(shape), 96)) for shape in ("disc", "wedge"))
    assert float(one @ one) == pytest.approx(1)
    assert float(one @ other) < 0.95
    assert one.sum() == pytest.approx(0, abs=1e-9)


def test_twins_and_shared_drawings_are_dropped():
    drawings = collect_drawings(four_families())
    assert {concept: len(rows) for concept, rows in drawings.items()} == {"key": 6, "home": 5, "store": 1}
    selection = select_pictures(drawings, 96, 2)
    assert selection.twins == 1  # the second disc among the keys
    # bar, wedge, ring and steps stand for both a key and a house: taken out of both, and neither class is left
    assert (selection.shared, selection.classes) == (8, {})


def test_classes_need_enough_drawings_and_families():
    families = [
        family(name, key=shape) for name, shape in zip(("lucide", "tabler", "mdi", "eva"), SHAPES, strict=False)
    ]
    for least, found in ((4, ["key"]), (5, [])):
        assert list(select_pictures(collect_drawings(families), 96, least).classes) == found
    assert select_pictures(collect_drawings(families[:3]), 96, 1).classes == {}


def test_fluent_counts_once_at_the_size_nearest_24():
    icons = [(f"ic-fluent-key-{size}-regular", svg(shape)) for size, shape in ((16, "disc"), (28, "bar"), (48, "ring"))]
    drawings = collect_drawings([Family("fluent", "regular", "MIT", "p", icons)])
    assert [drawing.name for drawing in drawings["key"]] == ["ic-fluent-key-28-regular"]


def test_halves_keep_first_words_together_and_balance():
    assert split_into_halves({"arrows": 2, "arrow-up": 9, "bell": 1, "bell-off": 1, "car": 3}) == {
        "arrow-up": "train", "arrows": "train", "bell": "test", "bell-off": "test", "car": "test",
    }  # fmt: skip


def test_fonts_are_read_by_their_names(tmp_path):
    pen = TTGlyphPen(None)
    pen.moveTo((100, 100))
    pen.lineTo((500, 100))
    pen.lineTo((100, 300))
    pen.closePath()
    empty = TTGlyphPen(None).glyph()
    font = FontBuilder(1000, isTTF=True)
    font.setupGlyphOrder([".notdef", "wedge", "blank"])
    font.setupCharacterMap({0xE001: "wedge", 0xE002: "blank"})
    font.setupGlyf({".notdef": empty, "wedge": pen.glyph(), "blank": empty})
    font.setupHorizontalMetrics(dict.fromkeys([".notdef", "wedge", "blank"], (1000, 100)))
    font.setupHorizontalHeader()
    font.setupPost()
    font.save(tmp_path / "icons.ttf")
    (tmp_path / "names.json").write_text(json.dumps({"wedge": "0xe001", "blank": 0xE002, "gone": "0xe0ff"}))
    found = list(from_font(tmp_path / "icons.ttf", tmp_path / "names.json"))
    assert [name for name, _ in found] == ["wedge"]
    assert 'viewBox="100 -300 400 200"' in found[0][1]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Stands in for the installed packages: four families with six keys between them."""
    for number, name in enumerate(("lucide", "mdi")):
        (tmp_path / f"packages/justmyresource_{name}").mkdir(parents=True)
        with zipfile.ZipFile(tmp_path / f"packages/justmyresource_{name}/icons.zip", "w") as archive:
            archive.writestr("key.svg", svg(list(SHAPES)[number]))
    for folder, shapes in {"regular": ("bar", "wedge"), "solid": ("roof", "steps")}.items():
        (tmp_path / "packages/flet_iconoir/icons" / folder).mkdir(parents=True)
        (tmp_path / "packages/flet_iconoir/icons" / folder / "key.svg").write_text(svg(shapes[0]))
    (tmp_path / "packages/sphinx_design/compiled").mkdir(parents=True)
    octicon = {"key": {"heights": {"24": {"width": 24, "path": SHAPES["steps"]}}}}
    (tmp_path / "packages/sphinx_design/compiled/octicons.json").write_text(json.dumps(octicon))
    present = ("lucide", "mdi", "iconoir", "octicons")
    monkeypatch.setattr(
        "anchorage_pipeline.datasets.icons.sources.icon_families",
        lambda folder: (found for found in icon_families(folder) if found.name in present),
    )
    return tmp_path / "packages"


def test_set_is_built_whole_and_left_alone_the_second_time(packages, tmp_path):
    said = []
    out = tmp_path / "data/icons"
    summary = build_icons(out, packages, min_per_class=4, say=said.append)
    assert (summary.classes, summary.images, summary.built) == (1, 5, True)
    with (out / "manifest.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["path"] for row in rows] == [
        "images/key/lucide__line__key.png",
        "images/key/mdi__mixed__key.png",
        "images/key/iconoir__regular__key.png",
        "images/key/iconoir__solid__key.png",
        "images/key/octicons__mixed__key.png",
    ]
    assert rows[0] == {
        **{"path": "images/key/lucide__line__key.png", "class": "key", "split": "train", "family": "lucide"},
        **{"style": "line", "icon": "key", "distribution": "justmyresource-lucide", "licence": "ISC"},
    }
    pixels = b"".join(row["path"].encode() + Image.open(out / row["path"]).tobytes() for row in rows)
    assert summary.pixels == hashlib.sha256(pixels).hexdigest()
    assert "| Lucide | justmyresource-lucide 0.575.0 | ISC |" in (out / "LICENCES.md").read_text()
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["icons"]

    before = (out / "icons.json").stat().st_mtime_ns
    again = build_icons(out, packages, min_per_class=4, say=said.append)
    assert again == summary._replace(built=False)
    assert (out / "icons.json").stat().st_mtime_ns == before
    assert (str(summary), str(again)) == (
        f"{out}: 5 images of 1 classes (built)",
        f"{out}: 5 images of 1 classes (already complete)",
    )
    assert said[:2] == ["reading the icon packages", "drawing the icons, about a minute"]


@pytest.mark.parametrize("harm", ["remove", "change", "other settings"])
def test_a_set_that_is_not_whole_is_built_again(packages, tmp_path, harm):
    out = tmp_path / "icons"
    build_icons(out, packages, min_per_class=4, say=lambda _: None)
    path = out / "images/key/mdi__mixed__key.png"
    original = path.read_bytes()
    if harm == "remove":
        path.unlink()
    elif harm == "change":
        path.write_bytes(original[:-1])
    summary = build_icons(out, packages, min_per_class=3 if harm == "other settings" else 4, say=lambda _: None)
    assert summary.built
    assert path.read_bytes() == original


def test_other_pixels_than_the_published_are_refused(packages, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "MIN_PER_CLASS", 4)
    with pytest.raises(DataError, match=r"E_DATA_DIGEST: Expected pixels with SHA-256 02df03ce"):
        build_icons(tmp_path / "icons", packages, min_per_class=4, say=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["packages"]


def test_something_else_at_the_place_is_not_touched(packages, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="E_OUTPUT_EXISTS"):
        build_icons(tmp_path / "mine", packages, say=lambda _: None)
    assert (tmp_path / "mine/thesis.txt").read_text() == "x"


def test_missing_packages_and_senseless_settings(packages, tmp_path):
    (packages / "justmyresource_mdi/icons.zip").unlink()
    with pytest.raises(DataError, match=r"E_PACKAGES_MISSING: .*no .*justmyresource_mdi/icons.zip"):
        build_icons(tmp_path / "icons", packages, min_per_class=4, say=lambda _: None)
    with pytest.raises(UsageError, match="E_ICONS_SETTINGS"):
        build_icons(tmp_path / "icons", packages, min_per_class=0, say=lambda _: None)
    assert not (tmp_path / "icons").exists()


def test_too_few_drawings_are_no_data_set(packages, tmp_path):
    with pytest.raises(DataError, match="E_ICONS_EMPTY: No concept has 8 different drawings"):
        build_icons(tmp_path / "icons", packages, min_per_class=8, say=lambda _: None)
    assert not (tmp_path / "icons").exists()


def test_without_a_package_index_the_error_names_what_is_needed(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setenv("PIP_RETRIES", "0")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ResourceError) as error:
        fetch_packages("anchorage_pipeline.datasets.icons", "16 icon packages (21 MB)", tmp_path / "target")
    assert error.value.code == "E_PACKAGES_FETCH"
    assert "Expected 16 icon packages (21 MB)" in error.value.message
    assert "--require-hashes" in error.value.message
