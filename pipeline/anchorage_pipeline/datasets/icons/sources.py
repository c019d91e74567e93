"""Read the icons of all families from the installed packages as SVG."""

import json
import logging
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from anchorage_pipeline.datasets.drawing import glyph_svg, wrap_svg

Icons = Iterable[tuple[str, str]]


class Family(NamedTuple):
    """A style of an icon family; `icons` yields names and SVGs, sorted by name."""

    name: str
    style: str
    licence: str
    distribution: str
    icons: Icons


def icon_families(packages: Path) -> Iterator[Family]:
    """All families in a fixed order, which decides which of two near-duplicates is kept.

    Args:
        packages: folder with the installed packages of `requirements.txt`, none of which is imported; their data files
            are read lazily.
    """
    yield from _zip_families(packages)
    yield from _folder_families(packages)
    yield from _font_families(packages)
    yield from _json_families(packages)


def _zip_families(packages: Path) -> Iterator[Family]:
    for style in ("regular", "fill"):
        icons = _from_zip(packages / "justmyresource_phosphor/icons.zip", f"{style}/")
        yield Family("phosphor", style, "MIT", "justmyresource-phosphor", icons)
    icons = _from_zip(packages / "justmyresource_lucide/icons.zip")
    yield Family("lucide", "line", "ISC", "justmyresource-lucide", icons)
    for style in ("outline", "filled"):
        icons = _from_folder(packages / "pytablericons/icons" / style)
        yield Family("tabler", style, "MIT", "pytablericons", icons)
    icons = _from_zip(packages / "justmyresource_mdi/icons.zip")
    yield Family("mdi", "mixed", "Apache-2.0", "justmyresource-mdi", icons)
    for style in ("solid", "regular"):
        icons = _from_zip(packages / "justmyresource_font_awesome/icons.zip", f"{style}/")
        yield Family("fontawesome", style, "CC-BY-4.0", "justmyresource-font-awesome", icons)
    for style in ("filled", "outlined", "two-tone", "sharp"):
        icons = _from_zip(packages / "justmyresource_material_icons/icons.zip", f"{style}/")
        yield Family("material", style, "Apache-2.0", "justmyresource-material-icons", icons)
    for style in ("outline", "solid"):
        icons = _from_zip(packages / "justmyresource_heroicons/icons.zip", f"24/{style}/")
        yield Family("heroicons", style, "MIT", "justmyresource-heroicons", icons)


def _folder_families(packages: Path) -> Iterator[Family]:
    icons = _from_folder(packages / "js_lib_bootstrap_icons/static/bootstrap-icons")
    yield Family("bootstrap", "mixed", "MIT", "django-js-lib-bootstrap-icons", icons)
    for style in ("regular", "solid"):
        yield Family("iconoir", style, "MIT", "flet-iconoir", _from_folder(packages / "flet_iconoir/icons" / style))


def _font_families(packages: Path) -> Iterator[Family]:
    folder = packages / "tkinter_icons_fluent"
    for style in ("regular", "filled"):
        font = folder / f"fonts/FluentSystemIcons-{style.capitalize()}.ttf"
        icons = from_font(font, folder / f"glyphmap-{style}.json")
        yield Family("fluent", style, "MIT", "tkinter-icons-fluent", icons)
    for family, style, licence, package, stem in (
        ("ionicons", "mixed", "MIT", "ion", "ionicons"),
        ("eva", "mixed", "MIT", "eva", "eva-icons"),
        ("weather", "line", "OFL-1.1", "weather", "weathericons-regular-webfont"),
    ):
        folder = packages / f"tkinter_icons_{package}"
        icons = from_font(folder / f"fonts/{stem}.ttf", folder / "glyphmap.json")
        yield Family(family, style, licence, f"tkinter-icons-{package}", icons)
    folder = packages / "qtawesome/fonts"
    for family, stem, version, licence in (
        ("remix", "remixicon", "2.5.0", "Apache-2.0"),
        ("codicon", "codicon", "0.0.36", "CC-BY-4.0"),
        ("elusive", "elusiveicons-webfont", "2.0", "OFL-1.1"),
    ):
        icons = from_font(folder / f"{stem}-{version}.ttf", folder / f"{stem}-charmap-{version}.json")
        yield Family(family, "mixed", licence, "qtawesome", icons)


def _json_families(packages: Path) -> Iterator[Family]:
    icons = _from_octicons(packages / "sphinx_design/compiled/octicons.json")
    yield Family("octicons", "mixed", "MIT", "sphinx-design", icons)
    yield Family("roentgen", "solid", "CC-BY-4.0", "roentgen-icons", _from_shapes(packages / "roentgen/shapes.json"))


def _from_folder(path: Path) -> Icons:
    if not path.is_dir():
        raise FileNotFoundError(2, "no such folder", str(path))
    for file in sorted(path.glob("*.svg")):
        yield file.stem, file.read_text(encoding="utf-8")


def _from_zip(path: Path, folder: str = "") -> Icons:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.endswith(".svg") and name.startswith(folder):
                yield Path(name).stem, archive.read(name).decode("utf-8")


def from_font(path: Path, names: Path) -> Icons:
    """Yield the glyphs of a TrueType font as SVG, cropped to their outline.

    Args:
        path: the font.
        names: JSON file that maps icon names to code points, as numbers or hexadecimal strings.
    """
    from fontTools.ttLib import TTFont

    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns about stray bytes at the end of some fonts
    with TTFont(path) as font:
        glyphs, characters = font.getGlyphSet(), font.getBestCmap()
        for name, code in sorted(json.loads(names.read_text(encoding="utf-8")).items()):
            glyph = characters.get(int(str(code).replace("0x", ""), 16))
            if glyph is None:
                continue
            svg = glyph_svg(glyphs[glyph], glyphs)
            if svg is not None:
                yield name, svg


def _from_octicons(path: Path) -> Icons:
    for name, icon in sorted(json.loads(path.read_text(encoding="utf-8")).items()):
        size = "24" if "24" in icon["heights"] else sorted(icon["heights"])[-1]
        body = icon["heights"][size]
        yield name, wrap_svg(f"0 0 {body['width']} {size}", body["path"])


def _from_shapes(path: Path) -> Icons:
    for name, outline in sorted(json.loads(path.read_text(encoding="utf-8")).items()):
        if isinstance(outline, str):
            yield name, wrap_svg("-8 -8 16 16", f'<path d="{outline}"/>')
