"""Select places of the Earth as classes, and render views of them from the maps."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

SIZE = 96
REACH = 3.75  # width of a view in degrees of latitude before zooming: 415 km

_STEP = 1.4  # distance between neighboring places, in units of REACH
_NORTH, _SOUTH = 70, -55  # beyond these latitudes, the maps show ice or are stretched too far
_BORDER = 12  # distance from the left and right edges of the maps in degrees
_LAND = 0.4  # minimum share of land
_CONTRAST = 0.015  # minimum standard deviation of the high-pass filtered gray values (0 to 1) on each map
_ZOOM, _SHIFT, _TURN = 1.2, 0.08, 15  # maximum variation of views: factor, share of REACH, degrees


class Place(NamedTuple):
    """The center of a place in degrees, south and west negative."""

    latitude: float
    longitude: float

    @property
    def name(self) -> str:
        """Folder name of the place, such as n46-e008."""
        lat, lon = round(self.latitude), round(self.longitude)
        return f"{'s' if lat < 0 else 'n'}{abs(lat):02}-{'w' if lon < 0 else 'e'}{abs(lon):03}"


class View(NamedTuple):
    """A view of a place: zoom factor, shifts as shares of REACH, rotation in degrees."""

    zoom: float = 1.0
    right: float = 0.0
    down: float = 0.0
    turn: float = 0.0


_STRAIGHT = View()


def list_places() -> Iterator[Place]:
    """A grid over the Earth, sea included, with equal distances in kilometres."""
    step = REACH * _STEP
    rows = int((_NORTH - _SOUTH) / step)
    for row in range(rows):
        latitude = _NORTH - step * (row + 0.5)
        width = step / math.cos(math.radians(latitude))
        columns = int((360 - 2 * _BORDER) / width)
        for column in range(columns):
            yield Place(latitude, (column - (columns - 1) / 2) * width)


def render(world: Image.Image, place: Place, view: View = _STRAIGHT) -> Image.Image:
    """Render a place as a square image of `SIZE` pixels, without the distortion of the map.

    Args:
        world: map of the Earth in equirectangular projection.
        place: the place to render.
        view: zoom, shift and rotation.
    """
    scale = world.width / 360
    pixel = REACH * view.zoom * scale / SIZE  # pixels of the map per pixel of the image
    stretch = 1 / math.cos(math.radians(place.latitude))
    cosine, sine = math.cos(math.radians(view.turn)), math.sin(math.radians(view.turn))
    a, b, d, e = pixel * stretch * cosine, -pixel * stretch * sine, pixel * sine, pixel * cosine
    x = scale * (place.longitude + 180 + REACH * stretch * view.right)
    y = scale * (90 - place.latitude + REACH * view.down)
    middle = SIZE / 2
    # Round, so that the pixels do not depend on the machine's cosine.
    numbers = [a, b, x - middle * (a + b), d, e, y - middle * (d + e)]
    coefficients = [round(number, 6) for number in numbers]
    return world.transform((SIZE, SIZE), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)


def draw_views(place: Place, count: int) -> list[View]:
    """Views that differ in zoom, center and rotation, seeded by the place."""
    random = np.random.default_rng([round(90 + place.latitude), round(180 + place.longitude)])
    views = []
    for _ in range(count):
        zoom, right, down, turn = random.uniform(-1, 1, size=4)
        views.append(View(_ZOOM**zoom, _SHIFT * right, _SHIFT * down, _TURN * turn))
    return views


def is_distinctive(place: Place, worlds: dict[str, Image.Image]) -> bool:
    """Whether a place has enough land, and enough contrast on every map."""
    red, _, blue = np.moveaxis(np.asarray(render(worlds["etopo1"], place), np.int32), -1, 0)
    if (blue <= red).mean() < _LAND:
        return False
    return all(_contrast(render(world, place)) >= _CONTRAST for world in worlds.values())


def _contrast(picture: Image.Image) -> float:
    grey = picture.convert("L")
    coarse = grey.resize((6, 6), Image.Resampling.BOX).resize(grey.size, Image.Resampling.BICUBIC)
    return float((np.asarray(grey, np.float64) - np.asarray(coarse, np.float64)).std()) / 255
