"""Build the icon data set, 286 classes and 3,795 images, from pinned packages."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from anchorage.errors import DataError, UsageError
from anchorage_pipeline.datasets.building import Picture, Recipe, Say, Summary, build_set

MIN_PER_CLASS = 8
SIZE = 96
PIXELS = "02df03ce8fca9b8fe67105dc125c235f9337e3da66bbe37827087f369255b3b6"  # digest for these two settings


def build_icons(
    out: Path, packages: Path | None = None, min_per_class: int = MIN_PER_CLASS, size: int = SIZE, say: Say = print
) -> Summary:
    """Build the data set, unless it is complete already.

    The columns of the manifest are path, class, split (train or test), family, style, icon, distribution and licence.
    The path of an image is `images/<class>/<family>__<style>__<icon>.png`.

    Args:
        out: the folder to create.
        packages: folder with the icon packages; None fetches them with pip into a temporary folder.
        min_per_class: minimum number of images per class, at least 1.
        size: side of the images in pixels, at least 12.
        say: function that prints progress messages.

    Raises:
        UsageError: `E_ICONS_SETTINGS` if a number is out of range, and those of `build_set`.
        DataError: `E_ICONS_EMPTY` if no class is left, and those of `build_set`.
    """
    if min_per_class < 1 or size < 12:
        raise UsageError(
            "E_ICONS_SETTINGS",
            f"`min_per_class` must be at least 1 and `size` at least 12. Received: {min_per_class} and {size}",
        )
    recipe = Recipe(
        name="icons",
        home="anchorage_pipeline.datasets.icons",
        packages="16 icon packages (21 MB)",
        columns=("family", "style", "icon", "distribution", "licence"),
        draw=partial(_draw, min_per_class=min_per_class, size=size),
        pixels=PIXELS if (min_per_class, size) == (MIN_PER_CLASS, SIZE) else None,
        room=(8, 73),
        tables=("requirements.txt", "aliases.txt", "misleading.txt", "excluded.txt"),
        settings={"min_per_class": min_per_class, "size": size},
    )
    return build_set(recipe, out, packages, say)


def _draw(packages: Path, say: Say, min_per_class: int, size: int) -> Iterator[Picture]:
    from anchorage_pipeline.datasets.icons.classes import collect_drawings, select_pictures, split_into_halves
    from anchorage_pipeline.datasets.icons.sources import icon_families

    say("reading the icon packages")
    drawings = collect_drawings(icon_families(packages))
    say("drawing the icons, about a minute")
    selection = select_pictures(drawings, size, min_per_class)
    if not selection.classes:
        raise DataError("E_ICONS_EMPTY", f"No concept has {min_per_class} different drawings. Lower `min_per_class`")
    say(f"dropped {selection.twins:,} near-duplicate drawings and {selection.shared} that two classes share")
    halves = split_into_halves({concept: len(pictures) for concept, pictures in selection.classes.items()})
    for concept, pictures in sorted(selection.classes.items()):
        for drawing, image, _ in pictures:
            path = f"images/{concept}/{drawing.family}__{drawing.style}__{drawing.name}.png"
            origin = (drawing.family, drawing.style, drawing.name, drawing.distribution, drawing.licence)
            yield Picture(path, concept, halves[concept], image, origin)
