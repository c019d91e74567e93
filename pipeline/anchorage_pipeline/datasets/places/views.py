"""Which places of the Earth are classes, and views of them on the packaged pictures."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

SIZE = 96
REACH = 3.75  # degrees of latitude that a view is wide, before it is zoomed: 415 km

_STEP = 1.4  # distance between neighbouring places, in reaches
_NORTH, _SOUTH = 70, -55  # beyond, the pictures show ice or are stretched too far
_BORDER = 12  # degrees kept from the edges of the pictures, where a view would be cut
_LAND = 0.4  # least share of land
_CONTRAST = 0.015  # least standard deviation of the grey values (0 to 1) on each picture, without coarse shades
_ZOOM, _SHIFT, _TURN = 1.2, 0.08, 15  # how views differ: factor, share of the reach, degrees


class Place(NamedTuple):
    """The centre of a place in degrees, south and west negative."""

    latitude: float
    longitude: float

    @property
    def name(self) -> str:
        """The place as a folder name, such as n46-e008."""
        lat, lon = round(self.latitude), round(self.longitude)
        return f"{'s' if lat < 0 else 'n'}{abs(lat):02}-{'w' if lon < 0 else 'e'}{abs(lon):03}"


class View(NamedTuple):
    """How a place is seen: zoom as a factor, shifts as shares of the reach, turn in degrees."""

    zoom: float = 1.0
    right: float = 0.0
    down: float = 0.0
    turn: float = 0.0


_STRAIGHT = View()


def list_places() -> Iterator[Place]:
    """A grid over the Earth with the same distance in kilometres everywhere, sea included."""
    step = REACH * _STEP
    rows = int((_NORTH - _SOUTH) / step)
    for row in range(rows):
        latitude = _NORTH - step * (row + 0.5)
        width = step / math.cos(math.radians(latitude))
        columns = int((360 - 2 * _BORDER) / width)
        for column in range(columns):
            yield Place(latitude, (column - (columns - 1) / 2) * width)


def look(world: Image.Image, place: Place, view: View = _STRAIGHT) -> Image.Image:
    """A place as a square picture of `SIZE` pixels, without the stretching of the map.

    Args:
        world: all of the Earth, longitude left to right and latitude top to bottom in equal steps.
        place: where to look.
        view: how to look.
    """
    scale = world.width / 360
    pixel = REACH * view.zoom * scale / SIZE  # of the world, for one pixel of the picture
    stretch = 1 / math.cos(math.radians(place.latitude))
    cosine, sine = math.cos(math.radians(view.turn)), math.sin(math.radians(view.turn))
    a, b, d, e = pixel * stretch * cosine, -pixel * stretch * sine, pixel * sine, pixel * cosine
    x = scale * (place.longitude + 180 + REACH * stretch * view.right)
    y = scale * (90 - place.latitude + REACH * view.down)
    middle = SIZE / 2
    # Rounded, so that the last bits of a machine's cosine make no other pixels.
    numbers = [a, b, x - middle * (a + b), d, e, y - middle * (d + e)]
    coefficients = [round(number, 6) for number in numbers]
    return world.transform((SIZE, SIZE), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)


def draw_views(place: Place, count: int) -> list[View]:
    """Views that differ in zoom, centre and turn, the same ones whenever they are asked for."""
    random = np.random.default_rng([round(90 + place.latitude), round(180 + place.longitude)])
    views = []
    for _ in range(count):
        zoom, right, down, turn = random.uniform(-1, 1, size=4)
        views.append(View(_ZOOM**zoom, _SHIFT * right, _SHIFT * down, _TURN * turn))
    return views


def is_worth(place: Place, worlds: dict[str, Image.Image]) -> bool:
    """Whether a place is mainly land and has something to tell it by on every picture."""
    red, _, blue = np.moveaxis(np.asarray(look(worlds["etopo1"], place), np.int32), -1, 0)
    if (blue <= red).mean() < _LAND:
        return False
    return all(_contrast(look(world, place)) >= _CONTRAST for world in worlds.values())


def _contrast(picture: Image.Image) -> float:
    grey = picture.convert("L")
    coarse = grey.resize((6, 6), Image.Resampling.BOX).resize(grey.size, Image.Resampling.BICUBIC)
    return float((np.asarray(grey, np.float64) - np.asarray(coarse, np.float64)).std()) / 255
