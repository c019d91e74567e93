"""Data in an object store, copied to this machine once for each content of the bucket.

The digest of the data and the listing of its images come from the listing of the bucket, so that a run whose nodes are
all cached copies nothing, and neither does the question whether a run is needed.
"""

import posixpath
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from anchorage.data.listing import Listing, find_paths, list_images, list_names
from anchorage.data.vectors import VectorTable, is_vector_data, list_vectors
from anchorage.errors import DataError
from anchorage.files import digest
from anchorage.storage import (
    Copy,
    MissingObjectError,
    check_names,
    exists,
    find_object,
    is_remote,
    join,
    list_files,
    list_folders,
    local_input,
)

_BESIDE = (".parquet", ".csv", ".tsv")  # of a table beside a `.npy` file


class DataPlace(NamedTuple):
    """The folder that paths are relative to, and the table, "" if there is none: two paths, or two URIs."""

    root: str
    table: str = ""


_held: dict[tuple, Copy] = {}  # copies that this process reads


def copy_data(place: DataPlace, columns: Mapping[str, str], *, is_vectors: bool, again: bool = False) -> DataPlace:
    """Return the local place of the data: the place itself, or that of a copy, which stays while the process runs.

    Of a table of images only the files that it lists are copied. Without the other files of its folder, the root of a
    copied table of vectors is of no use.

    Args:
        place: folder and table.
        columns: column names of the table, see `anchorage.data.tables`.
        is_vectors: whether the data are vectors.
        again: whether to look for changes in the bucket since the last call; otherwise that copy is used.

    Raises:
        DataError: `E_DATA_MISSING`, and the errors of reading the table.
        AnchorageError: those of the object store.
    """
    if not is_remote(place.root):
        return place
    key = (place, tuple(sorted(columns.items())), is_vectors)
    if again or key not in _held:
        with _told_missing(place):
            _held[key] = Copy(*_source(place, columns, is_vectors=is_vectors))
    path = _held[key].path
    if _held[key].uri == place.table:
        return DataPlace(str(path.parent), str(path))
    return DataPlace(str(path), str(path / posixpath.basename(place.table)) if place.table else "")


def remote_version(place: DataPlace, columns: Mapping[str, str], *, is_vectors: bool) -> str:
    """Digest of the objects that `copy_data` copies: names, sizes and etags; raises as that function."""
    with _told_missing(place):
        uri, wanted = _source(place, columns, is_vectors=is_vectors)
        entry = find_object(uri)
        entries = {posixpath.basename(uri): entry} if entry else list_files(uri)
        rows = [[name, each.size, each.etag] for name, each in entries.items() if wanted is None or wanted(name)]
        if not rows:
            raise MissingObjectError(uri)
    return digest(rows)


def list_data(
    place: DataPlace, columns: Mapping[str, str], *, is_vectors: bool, follow_links: bool = False, **assignment: Any
) -> Listing:
    """List the data as `list_vectors` or `list_images` does; of images in an object store only a table is copied.

    Args:
        place: folder and table.
        columns: column names of the table.
        is_vectors: whether the data are vectors.
        follow_links: as for `list_images`.
        **assignment: `val_share`, `test_share`, `seed` and `own_labels` as for `list_images`.

    Raises:
        DataError: `E_DATA_MISSING`, and the errors of listing.
        AnchorageError: those of the object store.
    """
    if is_vectors:
        place = copy_data(place, columns, is_vectors=True)
        return list_vectors(VectorTable(place.table, columns), **assignment)
    if not is_remote(place.root):
        return list_images(place.root, place.table, columns, follow_links=follow_links, **assignment)
    with _told_missing(place):
        if place.table:
            with local_input(place.table) as table:
                return list_images(table.parent, table, columns, **assignment)
        if names := list_files(place.root):
            check_names(place.root, names)
            return list_names(names, **assignment)
        raise MissingObjectError(place.root)


def remote_spans(parent: str, *, files: bool) -> list[str]:
    """Names directly below a folder of an object store: its folders, or its objects."""
    return [name for name in list_files(parent) if "/" not in name] if files else list_folders(parent)


def holds_vectors(uri: str, columns: Mapping[str, str] | None = None) -> bool:
    """As `is_vector_data`, for a URI too; of that a Parquet file is copied to look at its columns."""
    if not is_remote(uri):
        return is_vector_data(uri, columns)
    suffix = posixpath.splitext(uri)[1].lower()
    if suffix == ".parquet":
        try:
            with local_input(uri) as path:
                return is_vector_data(path, columns)
        except MissingObjectError:
            return False  # reading the data raises the error
    if suffix:
        return suffix == ".npy"
    return exists(join(uri, "dataset_dict.json")) or any(_is_arrow(name) for name in list_files(uri))


def _is_arrow(name: str) -> bool:
    return name.endswith(".arrow") and "/" not in name


@contextmanager
def _told_missing(place: DataPlace) -> Iterator[None]:
    try:
        yield
    except MissingObjectError as error:
        where = place.table or place.root
        raise DataError("E_DATA_MISSING", f"Expected data at {where}. Received: no object at {error.uri}") from error


def _source(
    place: DataPlace, columns: Mapping[str, str], *, is_vectors: bool
) -> tuple[str, Callable[[str], bool] | None]:
    """The object or folder that the data are in, and which objects below it they are; None for all of them."""
    if not place.table:
        return place.root, None
    table = posixpath.basename(place.table)
    stem, suffix = posixpath.splitext(table)
    if not is_vectors:
        with local_input(place.table) as path:
            names = {table, *find_paths(path, columns)}
    elif suffix.lower() == ".npy":
        names = {table, *(stem + end for end in _BESIDE)}
    else:
        return place.table, None
    return place.root, names.__contains__
