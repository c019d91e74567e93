"""Group the drawings into classes, and split the classes into halves for training and test."""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from PIL import Image

from anchorage.progress import track
from anchorage_pipeline.datasets.drawing import draw, signature
from anchorage_pipeline.datasets.icons.names import ConceptNames
from anchorage_pipeline.datasets.icons.sources import Family

MIN_FAMILIES = 4  # minimum number of icon families per concept

_TWIN = 0.95  # correlation above which two drawings of a class are near-duplicates
_SHARED = 0.985  # correlation above which drawings of two classes are dropped from both
_FLUENT_SIZE = re.compile(r"-(\d+)-\w+$")


class Drawing(NamedTuple):
    """The source and the SVG of an icon."""

    family: str
    style: str
    licence: str
    distribution: str
    name: str
    svg: str


class Picture(NamedTuple):
    """An icon with its image and signature."""

    drawing: Drawing
    image: Image.Image
    signature: np.ndarray


class Selection(NamedTuple):
    """The classes by name, and the numbers of drawings dropped as near-duplicates and as shared between classes."""

    classes: dict[str, list[Picture]]
    twins: int
    shared: int


def collect_drawings(families: Iterable[Family]) -> dict[str, list[Drawing]]:
    """All drawings of each concept, in the order of the families."""
    names = ConceptNames()
    drawings: defaultdict[str, list[Drawing]] = defaultdict(list)
    for family in families:
        chosen: dict[tuple[str, str], tuple[int, Drawing]] = {}
        for name, svg in family.icons:
            concept = names.concept(family.name, name)
            if concept is None:
                continue
            drawing = Drawing(family.name, family.style, family.licence, family.distribution, name, svg)
            if family.name != "fluent":
                chosen[concept, name] = (0, drawing)
                continue
            size = _FLUENT_SIZE.search(name)  # of several sizes of a drawing, keep the one nearest to 24
            distance = abs(int(size[1]) - 24) if size else 0
            stem = re.sub(r"(-\d+)?-\w+$", "", name)
            if (concept, stem) not in chosen or distance < chosen[concept, stem][0]:
                chosen[concept, stem] = (distance, drawing)
        for (concept, _), (_, drawing) in sorted(chosen.items(), key=lambda item: item[0]):
            drawings[concept].append(drawing)
    return drawings


def select_pictures(drawings: dict[str, list[Drawing]], size: int, min_per_class: int) -> Selection:
    """Draw every concept that enough families have, and drop near-duplicates and drawings shared between classes.

    Args:
        drawings: drawings by concept.
        size: side of the images in pixels.
        min_per_class: minimum number of remaining images per class.
    """
    wanted = {
        concept: rows
        for concept, rows in sorted(drawings.items())
        if _is_class(rows, [row.family for row in rows], min_per_class)
    }
    kept, twins = {}, 0
    for concept, rows in track(wanted.items(), "concepts"):
        kept[concept], dropped = _without_twins(rows, size)
        twins += dropped
    if not kept:
        return Selection({}, twins, 0)
    shared = _find_shared(kept)
    remaining = {
        concept: [picture for picture, is_shared in zip(pictures, shared[concept], strict=True) if not is_shared]
        for concept, pictures in kept.items()
    }
    classes = {
        concept: pictures
        for concept, pictures in remaining.items()
        if _is_class(pictures, [picture.drawing.family for picture in pictures], min_per_class)
    }
    return Selection(classes, twins, sum(int(marks.sum()) for marks in shared.values()))


def split_into_halves(sizes: dict[str, int]) -> dict[str, str]:
    """Split the classes into halves; concepts with the same first word (cloud-rain, cloud-off) stay in one half.

    Groups are assigned to the smaller half in alphabetical order; nothing is random.

    Example:
        >>> split_into_halves({"cloud-off": 2, "cloud-rain": 3, "gear": 4, "key": 2})
        {'cloud-off': 'train', 'cloud-rain': 'train', 'gear': 'test', 'key': 'test'}
    """
    groups = defaultdict(list)
    for concept in sorted(sizes):
        groups[concept.split("-")[0].rstrip("s")].append(concept)
    total, sides = {"train": 0, "test": 0}, {}
    for word in sorted(groups):
        side = "train" if total["train"] <= total["test"] else "test"
        for concept in groups[word]:
            sides[concept] = side
            total[side] += sizes[concept]
    return sides


def _is_class(members: list, families: list[str], min_per_class: int) -> bool:
    return len(members) >= min_per_class and len(set(families)) >= MIN_FAMILIES


def _without_twins(rows: list[Drawing], size: int) -> tuple[list[Picture], int]:
    pictures: list[Picture] = []
    dropped = 0
    for row in rows:
        image = draw(row.svg, size)
        if image is None:
            continue
        sign = signature(image)
        if any(float(sign @ picture.signature) > _TWIN for picture in pictures):
            dropped += 1
        else:
            pictures.append(Picture(row, image, sign))
    return pictures, dropped


def _find_shared(kept: dict[str, list[Picture]]) -> dict[str, np.ndarray]:
    """For each concept, a mask of its images that another concept has, too."""
    numbers = np.concatenate([np.full(len(pictures), number) for number, pictures in enumerate(kept.values())])
    signs = np.stack([picture.signature for pictures in kept.values() for picture in pictures])
    near = signs @ signs.T > _SHARED
    shared = (near & (numbers[:, None] != numbers)).any(1)
    return {concept: shared[numbers == number] for number, concept in enumerate(kept)}
