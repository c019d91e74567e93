"""What is to be embedded or evaluated by a command: image files, folders, tables of images, and tables of vectors."""

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anchorage.data.listing import SPLITS, SUFFIXES, Reject
from anchorage.data.paths import DataFolder
from anchorage.data.store import ROLES
from anchorage.data.tables import read_table
from anchorage.data.vectors import VectorTable
from anchorage.errors import DataError, UsageError

_TABLES = (".csv", ".tsv", ".parquet")


class Input(NamedTuple):
    """An image file, or a vector `(V,)` float32 of a table; unknown label and split are "", an unknown role "both"."""

    path: str
    id: str
    label: str = ""
    role: str = "both"
    split: str = ""
    vector: np.ndarray | None = None


def list_inputs(places: Sequence[str | os.PathLike], *, vectors: bool) -> tuple[list[Input], list[Reject]]:
    """List all inputs, in order, and those without a valid and unique id.

    The id of an image is its path in NFC, as given for a file or folder, or as in its table, whose paths are relative
    to it.

    Args:
        places: image files, folders and tables of images; with `vectors`, tables of vectors.
        vectors: whether the model takes vectors.

    Raises:
        UsageError: `E_IMAGE_MISSING`.
        DataError: `E_NO_IMAGES` if there is nothing, and the errors of `read_table` and `VectorTable`.
    """
    found: dict[str, Input] = {}
    rejects: list[Reject] = []
    for item in _unique(part for place in places for part in _expand(Path(place), vectors=vectors)):
        if isinstance(item, Reject):
            rejects.append(item)
        elif item.id in found:
            rejects.append(
                Reject(item.path, item.id, "E_ID_DUPLICATE", f"the path {found[item.id].path!r} has the same id")
            )
        else:
            found[item.id] = item
    if not found and not rejects:
        kind, found_none = ("vectors", "no row") if vectors else ("images", "no image file")
        raise DataError("E_NO_IMAGES", f"Expected {kind} in {', '.join(map(str, places))}. Found {found_none}")
    return list(found.values()), rejects


def _unique(items: Iterable[Input | Reject]) -> Iterator[Input | Reject]:
    """Leave out image files that were named before."""
    seen = set()
    for item in items:
        if isinstance(item, Reject) or item.vector is not None or item.path not in seen:
            seen.add(item.path)
            yield item


def _expand(place: Path, *, vectors: bool) -> Iterator[Input | Reject]:
    if vectors:
        yield from _from_vectors(place)
    elif place.is_dir():
        files = (file for file in place.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        yield from map(_image, sorted(file.as_posix() for file in files if not _is_hidden(file.relative_to(place))))
    elif not place.exists():
        raise UsageError("E_IMAGE_MISSING", f"Expected an image or a folder of images at {place}. It does not exist")
    elif place.suffix.lower() in _TABLES:
        yield from _from_table(place)
    else:
        yield _image(place.as_posix())


def _image(path: str) -> Input | Reject:
    printable = path.encode("utf-8", "backslashreplace").decode()
    id_ = unicodedata.normalize("NFC", printable)
    if printable != path:
        return Reject(printable, id_, "E_PATH_ENCODING", "the name is not UTF-8; rename the file")
    return Input(path, id_)


def _from_table(table: Path) -> Iterator[Input | Reject]:
    folder = DataFolder(table.parent)
    for number, row in enumerate(read_table(table, {}, needed=("path",)), start=1):
        path = os.path.normpath(row["path"]) if row["path"] else ""
        if not path:
            yield Reject("", "", "E_PATH_MISSING", f"row {number} has no path")
        elif fault := folder.find_fault(path):
            yield Reject(path, path, *fault)
        else:
            yield Input((table.parent / path).as_posix(), unicodedata.normalize("NFC", path), *_texts(row))


def _from_vectors(place: Path) -> Iterator[Input | Reject]:
    table = VectorTable(place)
    rows, number = table.rows(), 0
    for matrix, faults in table.vectors():
        for vector, fault in zip(matrix, faults, strict=True):
            row, number = next(rows), number + 1
            if fault:
                yield Reject(f"{place}, row {number}", row["id"], "E_VECTOR_UNUSABLE", fault)
            else:
                yield Input(f"{place}, row {number}", row["id"], *_texts(row), vector)


def _texts(row: Mapping[str, str]) -> tuple[str, str, str]:
    """Label, role and split of a row; what is no role or split counts as missing."""
    role, split = row.get("role", "").strip().lower(), row.get("split", "").strip().lower()
    return row.get("label", "").strip(), role if role in ROLES else "both", split if split in SPLITS else ""


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
