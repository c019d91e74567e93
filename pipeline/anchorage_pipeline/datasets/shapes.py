"""Coloured shapes: a data set that is drawn in a second, to try and to test the pipeline."""

import math
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from anchorage.errors import UsageError

_SIDE = 48
_COLOURS = {"amber": (214, 137, 16), "blue": (36, 86, 196), "green": (26, 132, 74), "plum": (124, 44, 120)}
# Corners of each shape in polar coordinates: (angle in turns, distance from the centre).
_SHAPES = {
    "triangle": [(i / 3, 1.0) for i in range(3)],
    "square": [(i / 4, 1.0) for i in range(4)],
    "pentagon": [(i / 5, 1.0) for i in range(5)],
    "star": [(i / 10, 1.0 if i % 2 else 0.45) for i in range(10)],
    "cross": [(i / 12 + (0.02 if i % 3 else 0.0), 0.4 if i % 3 == 0 else 1.0) for i in range(12)],
    "needle": [(i / 4, 1.0 if i % 2 else 0.25) for i in range(4)],
}


def draw_shapes(output: Path, per_class: int = 12, seed: int = 0) -> int:
    """Draw one folder per class, such as `star-blue`, with images that vary in position, size, rotation and shade.

    Args:
        output: folder to create; must not exist, or contain an earlier build of this set.
        per_class: images in each of the 24 classes; at least 1.
        seed: non-negative seed; equal seeds draw equal pixels.

    Returns:
        The number of images.

    Raises:
        UsageError: E_OUTPUT_EXISTS, if `output` contains something else.
    """
    marker = "shapes.txt"
    if output.exists() and not (output / marker).is_file():
        raise UsageError("E_OUTPUT_EXISTS", f"Expected no file or folder at {output}. Found other content")
    random = np.random.default_rng(seed)
    temporary = output.with_name(f".{output.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    for shape, corners in _SHAPES.items():
        for colour, rgb in _COLOURS.items():
            folder = temporary / f"{shape}-{colour}"
            folder.mkdir(parents=True)
            for number in range(per_class):
                _draw(corners, rgb, random).save(folder / f"{number:03}.png")
    (temporary / marker).write_text(f"{per_class} images of each class, seed {seed}\n", encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    temporary.rename(output)
    return len(_SHAPES) * len(_COLOURS) * per_class


def _draw(corners: list[tuple[float, float]], rgb: tuple[int, int, int], random: np.random.Generator) -> Image.Image:
    scale, turn = random.uniform(11, 20), random.uniform(0, 1)
    x, y = random.uniform(21, 27, size=2)
    shade = random.uniform(0.75, 1.2)
    paper = tuple(int(v) for v in random.integers(225, 256, size=3))
    ink = tuple(min(255, int(v * shade)) for v in rgb)
    points = [
        (x + scale * r * math.cos(2 * math.pi * (a + turn)), y + scale * r * math.sin(2 * math.pi * (a + turn)))
        for a, r in corners
    ]
    image = Image.new("RGB", (_SIDE, _SIDE), paper)
    ImageDraw.Draw(image).polygon(points, fill=ink)
    return image
