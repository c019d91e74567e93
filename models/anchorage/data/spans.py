"""The data of a run: the span in their path, and the digest of their files."""

import hashlib
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anchorage.data.listing import find_files
from anchorage.data.remote import DataPlace, remote_spans, remote_version
from anchorage.data.vectors import vector_files
from anchorage.errors import UsageError
from anchorage.files import digest, hash_file
from anchorage.storage import exists, is_remote

SPAN = "{SPAN}"
TABLES = {".csv", ".tsv", ".parquet"}


def resolve_span(path: str, span: str = "") -> str:
    """Put the name of a span, one delivery of data, in the place of `{SPAN}` in a path.

    Args:
        path: path with or without `{SPAN}`, such as `"data/{SPAN}/photos.csv"` or `"data/span-{SPAN}"`.
        span: name of the span; "" takes the newest that exists. Names are compared as text, their numbers by value, so
            that 10 is newer than 9 and 2026-11-30 newer than 2026-09-01.

    Raises:
        UsageError: E_SPAN, if no such span exists, or a span is given for a path without `{SPAN}`.
    """
    head, mark, tail = path.partition(SPAN)
    if not mark:
        if span:
            raise UsageError("E_SPAN", f"Expected `{SPAN}` in `data.path` for span {span!r}. Received: {path!r}")
        return path
    if span:
        if _exists(head + span + tail) and span not in {".", ".."} and "/" not in span:
            return head + span + tail
        raise UsageError("E_SPAN", f"Expected span {span!r} at {head + span + tail}. Found no such file or folder")
    parent, _, start = head.rpartition("/")
    rest, _, below = tail.partition("/")
    pattern = re.compile(rf"{re.escape(start)}(?P<span>[^.].*){re.escape(rest)}")
    if is_remote(path):
        names = remote_spans(parent, files=rest == tail and bool(rest))
    else:
        folder = Path(parent or ("/" if head.startswith("/") else "."))
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    found = [match["span"] for name in names if (match := pattern.fullmatch(name))]
    found = [each for each in found if _exists(head + each + tail)]
    if not found:
        raise UsageError("E_SPAN", f"Expected spans at {path}. Found none in {parent or '.'}")
    newest = max(found, key=_order)
    return head + newest + rest + ("/" + below if below else "")


def _order(span: str) -> list[tuple[int, int, str]]:
    """Numbers by value, and before other text."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", span)]


def _exists(path: str) -> bool:
    return exists(path) if is_remote(path) else Path(path).exists()


def split_path(path: str, *, is_vectors: bool) -> DataPlace:
    """Split the path of the data by its suffix into the image folder and the table, if any, without looking at it."""
    location = path.rstrip("/") if is_remote(path) else str(Path(path).absolute())
    parent, name = posixpath.split(location)
    is_table = is_vectors or posixpath.splitext(name)[1].lower() in TABLES
    return DataPlace(parent, location) if is_table else DataPlace(location)


def version_of(
    place: DataPlace, columns: Mapping[str, str] | None = None, *, is_vectors: bool, follow_links: bool = False
) -> str:
    """Digest of the data at a place: `vectors_version` or `data_version`, or of the objects of a bucket.

    Raises:
        DataError: what listing the data raises.
        AnchorageError: those of the object store.
    """
    if is_remote(place.root):
        return remote_version(place, columns or {}, is_vectors=is_vectors)
    table = Path(place.table) if place.table else None
    if is_vectors and table:
        return vectors_version(table)
    return data_version(Path(place.root), table, columns, follow_links=follow_links)


def data_version(
    root: Path, table: Path | None, columns: Mapping[str, str] | None = None, *, follow_links: bool = False
) -> str:
    """Digest of the files that `list_images` looks at: names, sizes and times of change; and of the table's content.

    Raises:
        DataError: what listing the data raises.
    """
    rows: list[list[Any]] = []
    for path, fault in find_files(root, table, columns or {}, follow_links=follow_links):
        rows.append([path, *(fault or _state(root / path))])
    return digest([rows, hashlib.sha256(table.read_bytes()).hexdigest() if table else ""])


def vectors_version(table: Path) -> str:
    """Digest of all files that a table of vectors consists of."""
    return digest([[path.name, hash_file(path)] for path in vector_files(table)])


def _state(path: Path) -> tuple[Any, ...]:
    try:
        found = path.stat()
    except OSError as error:
        return ("E_IMAGE_UNREADABLE", error.errno)
    return (found.st_size, found.st_mtime_ns)
