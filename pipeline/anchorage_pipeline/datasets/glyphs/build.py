"""Build the glyph data set from pinned font packages."""

from collections.abc import Iterator
from pathlib import Path

from anchorage.errors import DataError
from anchorage_pipeline.datasets.building import Picture, Recipe, Say, Summary, build_set

PIXELS = "8f3a0e8362fd01d052e156c381875dc5fcb0ab7328503e5ed2756939bd0bfa02"


def build_glyphs(out: Path, packages: Path | None = None, say: Say = print) -> Summary:
    """Build the data set, unless it is complete already.

    A class is a character, an image shows it in one font, black on white, cropped and centred. The columns of the
    manifest are path, class, split (train or test), script, character (such as U+0416), family, style, distribution and
    licence. The path of an image is `images/<class>/<family>__<style>.png`.

    Args:
        out: the folder to create.
        packages: folder with the font packages; None fetches them with pip into a temporary folder.
        say: function that prints progress messages.

    Raises:
        AnchorageError: DataError `E_GLYPHS_EMPTY` if no character is in enough fonts, and the errors of `build_set`.
    """
    return build_set(_recipe(PIXELS), out, packages, say)


def _recipe(pixels: str | None) -> Recipe:
    return Recipe(
        name="glyphs",
        home="anchorage_pipeline.datasets.glyphs",
        packages="60 font packages (33 MB)",
        columns=("script", "character", "family", "style", "distribution", "licence"),
        draw=_draw,
        pixels=pixels,
        room=(13, 120),
    )


def _draw(packages: Path, say: Say) -> Iterator[Picture]:
    from anchorage_pipeline.datasets.glyphs.classes import (
        class_name,
        draw_characters,
        drop_lookalikes,
        script,
        split_into_halves,
    )
    from anchorage_pipeline.datasets.glyphs.fonts import Face, list_cuts

    say("reading the fonts")
    faces = [(cut, Face(cut)) for cut in list_cuts(packages)]
    say("drawing the characters, about two minutes")
    drawings, twins = draw_characters(faces)
    if not drawings:
        raise DataError("E_GLYPHS_EMPTY", f"No character has enough different drawings in the fonts of {packages}")
    classes = drop_lookalikes(drawings, faces)
    say(f"dropped {twins:,} near-duplicate drawings and {len(drawings) - len(classes)} characters of the same shape")
    halves = split_into_halves(classes)
    for character, glyphs in sorted(classes.items(), key=lambda item: class_name(item[0])):
        name = class_name(character)
        for cut, image, _ in glyphs:
            path = f"images/{name}/{cut.family}__{cut.style}.png"
            origin = (script(character), f"U+{character:04X}", cut.family, cut.style, cut.distribution, cut.licence)
            yield Picture(path, name, halves[character], image, origin)
