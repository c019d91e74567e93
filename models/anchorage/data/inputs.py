"""Inputs of the commands that embed or evaluate: image files, folders, patterns, lists, tables, and vectors."""

import glob
import os
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anchorage.data.listing import SPLITS, SUFFIXES, Reject
from anchorage.data.paths import DataFolder, is_hidden
from anchorage.data.store import ROLES
from anchorage.data.tables import read_table
from anchorage.data.vectors import VectorTable
from anchorage.errors import DataError, UsageError
from anchorage.storage import find_object, is_remote, join, list_files, matches, split_pattern

_TABLES = (".csv", ".tsv", ".parquet")
_LIST = ".txt"


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

    The id of an image is its path or URI in NFC, as given for a file, folder or pattern, or as in its table or list,
    whose paths are relative to it.

    Args:
        places: image files, folders, patterns such as `photos/**/*.jpg`, tables of images, and lists (`.txt`, one path
            or URI per line); a file, folder or pattern may be at `s3://...` or `gs://...`. With `vectors`, tables of
            vectors.
        vectors: whether the model takes vectors.

    Raises:
        UsageError: `E_IMAGE_MISSING`; `E_ADDRESS` for a URI of another scheme.
        DataError: `E_NO_IMAGES` if there is nothing, and the errors of `read_table` and `VectorTable`.
    """
    found: dict[str, Input] = {}
    rejects: list[Reject] = []
    for item in _unique(part for place in places for part in _expand(os.fspath(place), vectors=vectors)):
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


def _expand(name: str, *, vectors: bool) -> Iterator[Input | Reject]:
    place = Path(name)
    if vectors:
        yield from _from_vectors(place)
    elif is_remote(name):
        yield from map(_image, _from_uri(name))
    elif place.is_dir():
        files = (file for file in place.rglob("*") if _is_image(file))
        yield from map(_image, sorted(file.as_posix() for file in files if not is_hidden(file.relative_to(place))))
    elif not place.exists():
        if not glob.has_magic(name):
            raise UsageError(
                "E_IMAGE_MISSING", f"Expected an image or a folder of images at {place}. It does not exist"
            )
        found = glob.iglob(name, recursive=True)  # noqa: PTH207 - that of Path takes no absolute patterns
        yield from map(_image, sorted(file for file in found if _is_image(Path(file))))
    elif place.suffix.lower() in _TABLES:
        yield from _from_table(place)
    elif place.suffix.lower() == _LIST:
        yield from _from_list(place)
    else:
        yield _image(place.as_posix())


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and file.is_file()


def _from_uri(uri: str) -> list[str]:
    """The URI of an object itself; else those of the images in a folder, or of a pattern, sorted."""
    root, pattern = split_pattern(uri.rstrip("/"))
    if not pattern and find_object(root):
        return [root]
    names = [name for name in list_files(root) if not pattern or matches(name.split("/"), pattern)]
    images = [name for name in names if posixpath.splitext(name)[1].lower() in SUFFIXES]
    return [join(root, name) for name in images if not is_hidden(name)]


def _from_list(file: Path) -> Iterator[Input | Reject]:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError("E_TABLE_DAMAGED", f"Expected a list of paths in UTF-8 at {file}. Received: {error}") from error
    for line in filter(None, map(str.strip, lines)):
        path = line if is_remote(line) else (file.parent / line).as_posix()
        yield Input(path, unicodedata.normalize("NFC", line))


def _image(path: str) -> Input | Reject:
    printable = path.encode("utf-8", "backslashreplace").decode()
    id_ = unicodedata.normalize("NFC", printable)
    if printable != path:
        return Reject(printable, id_, "E_PATH_ENCODING", "the name is not UTF-8; rename the file")
    return Input(path, id_)


def _from_table(table: Path) -> Iterator[Input | Reject]:
    folder = DataFolder(table.parent)
    for number, row in enumerate(read_table(table, {}, needed=("path",)), start=1):
        if is_remote(row["path"]):
            yield Input(row["path"], unicodedata.normalize("NFC", row["path"]), *_texts(row))
            continue
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
