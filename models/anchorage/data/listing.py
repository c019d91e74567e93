"""Listing of images with their labels, splits and roles; no image is opened.

Layouts:

    root/<class>/**/image                              classes are assigned to train, val and test by seed
    root/{train,val,test}/<class>/**/image             as given; without val, some train classes become val
    root/{train,val,query,gallery}/<class>/**/image    likewise; query and gallery are roles of the test split
    a table of path, label and optionally split, role  see `anchorage.data.tables`
"""

import os
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from anchorage.data.paths import DataFolder, PathFault, is_hidden
from anchorage.data.tables import ATTRIBUTE, read_table
from anchorage.errors import DataError

SPLITS = ("train", "val", "test")
MAX_REJECTS, MAX_REJECT_SHARE = 10, 0.001  # default limits of rejected records
TEST_SHARE, VAL_SHARE = 0.5, 0.15  # of the classes, by default; of those outside test
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".webp"}

# Name of a split in a folder or table -> (split, role)
_PARTS = {
    "train": ("train", "both"),
    "val": ("val", "both"),
    "validation": ("val", "both"),
    "test": ("test", "both"),
    "query": ("test", "query"),
    "gallery": ("test", "gallery"),
}
_ROLES = ("query", "gallery", "both")


class Source(NamedTuple):
    """An image file: `id` is the NFC form of `path`, which is relative to the root; `split` is "" until assigned.

    `attributes` are additional columns of its row, by name.
    """

    id: str
    path: str
    label: str
    split: str
    role: str
    attributes: tuple[tuple[str, str], ...] = ()


class Reject(NamedTuple):
    """A rejected record, with the reason; `split` is "" if not yet known."""

    path: str
    id: str
    code: str
    message: str
    split: str = ""


class Listing(NamedTuple):
    """All sources in the order of their ids, the rejects, and the number of files without an image suffix.

    `unlisted` has the reason, with a remedy, why a split would have no images.
    """

    sources: list[Source]
    rejects: list[Reject]
    skipped: int
    unlisted: Mapping[str, str] = MappingProxyType({})


def list_images(
    root: str | os.PathLike,
    table: str | os.PathLike = "",
    columns: Mapping[str, str] | None = None,
    *,
    val_share: float,
    test_share: float,
    seed: int,
    attributes: Sequence[str] = (),
    follow_links: bool = False,
    own_labels: bool = False,
) -> Listing:
    """List the images of a folder or a table, with all images of a class in one split.

    Args:
        root: folder that all paths are relative to.
        table: CSV, TSV or Parquet file; "" lists the folder.
        columns: column names of the table for "path", "label", "split", "role", if they differ.
        val_share: share in [0, 1) of the classes outside test that become val.
        test_share: share in [0, 1) of all classes that become test, unless splits are given.
        seed: seed of the assignment of classes.
        attributes: additional columns of the table to keep.
        follow_links: whether symbolic links may point outside the root.
        own_labels: whether an image without a label gets a class of its own, labeled with its id; otherwise it is
            rejected.

    Raises:
        DataError: `E_DATA_MISSING`, `E_TABLE_DAMAGED`, or `E_TABLE_COLUMNS`, also for attributes without a table;
            `E_PATH_OUTSIDE` for a linked folder outside the root.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError("E_DATA_MISSING", f"Expected a folder of images at {root}. Received: no such folder")
    if attributes and not table:
        raise DataError(
            "E_TABLE_COLUMNS",
            f"Expected a table with the columns {list(attributes)} of the experiment. Received: the folder {root}",
        )
    folder = DataFolder(root, follow_links=follow_links)
    if table:
        items: Iterator = _from_table(folder, read_table(table, columns or {}, attributes), own_labels)
    else:
        names = {path.name for path in root.iterdir() if path.is_dir()}
        items = _from_folder(folder.walk(), names, own_labels)
    return assign_splits(items, val_share=val_share, test_share=test_share, seed=seed)


def list_names(
    names: Iterable[str], *, val_share: float, test_share: float, seed: int, own_labels: bool = False
) -> Listing:
    """List the images of a folder that is known by the names of its files, as `list_images` lists the folder.

    Args:
        names: paths of files, relative to the root.
        val_share: see `list_images`.
        test_share: see `list_images`.
        seed: see `list_images`.
        own_labels: see `list_images`.
    """
    names = list(names)
    folders = {name.partition("/")[0] for name in names if "/" in name}
    visible = ((name, None) for name in names if not is_hidden(name))
    items = _from_folder(visible, folders, own_labels)
    return assign_splits(items, val_share=val_share, test_share=test_share, seed=seed)


def assign_splits(
    items: Iterable[Source | Reject | None], *, val_share: float, test_share: float, seed: int
) -> Listing:
    """Create a listing with unique ids, and all images of a class in one split.

    Args:
        items: sources, rejects, and None for a file that is not an image.
        val_share: see `list_images`.
        test_share: see `list_images`.
        seed: see `list_images`.
    """
    sources, rejects, skipped = [], [], 0
    seen: dict[str, str] = {}
    for item in items:
        if item is None:
            skipped += 1
        elif isinstance(item, Reject):
            rejects.append(item)
        elif item.id in seen:
            same = "the same path" if seen[item.id] == item.path else f"the path {seen[item.id]!r}"
            rejects.append(Reject(item.path, item.id, "E_ID_DUPLICATE", f"{same} is already listed", item.split))
        else:
            seen[item.id] = item.path
            sources.append(item)
    assigned = assign_classes(sources, val_share=val_share, test_share=test_share, seed=seed)
    return Listing(sorted(assigned), rejects, skipped, _explain_unlisted(sources, val_share, test_share))


def assign_classes(sources: list[Source], *, val_share: float, test_share: float, seed: int) -> list[Source]:
    """Assign classes to splits by seed: to all three if none is given, or some train classes to a missing val.

    Classes are sorted before the shuffle, so the result is the same on every machine.
    """
    given = {source.split for source in sources}
    if "val" in given or not sources:
        return sources
    assigned: dict[str, str] = {}
    labels = sorted({source.label for source in sources if source.split in ("", "train")})
    order = [labels[number] for number in np.random.default_rng(seed).permutation(len(labels))]
    if given == {""}:
        tests = _part(test_share, len(order))
        assigned.update(dict.fromkeys(order[:tests], "test"))
        order = order[tests:]
    assigned.update(dict.fromkeys(order, "train"))
    assigned.update(dict.fromkeys(order[: _part(val_share, len(order))], "val"))
    return [
        source._replace(split=assigned[source.label]) if source.split in ("", "train") else source for source in sources
    ]


def _explain_unlisted(sources: list[Source], val_share: float, test_share: float) -> dict[str, str]:
    """Explain why each split could have no classes, with a remedy that depends on whether splits are given."""
    given = {source.split for source in sources}
    classes = len({source.label for source in sources if source.split in ("", "train")})
    shares = {"test": test_share} if given == {""} else {}
    shares |= {} if "val" in given else {"val": val_share}
    reasons = dict.fromkeys(SPLITS, "the splits of the data have no images for it; add some classes")
    for split, share in shares.items():
        reasons[split] = f"`data.{split}_share` is 0; raise it"
        if share:
            reasons[split] = f"each split needs a class, but only {classes} can be assigned; add more classes"
    return reasons


def _part(share: float, count: int) -> int:
    """Return a share of a count, at least 1 and less than the count, unless the share is 0."""
    return min(max(1, int(share * count + 0.5)), count - 1) if share > 0 and count else 0


def find_files(
    root: Path, table: Path | None, columns: Mapping[str, str], *, follow_links: bool
) -> Iterator[tuple[str, PathFault | None]]:
    """Yield the paths that `list_images` uses, relative to the root, each with its fault or None.

    Raises:
        DataError: as `list_images`.
    """
    folder = DataFolder(root, follow_links=follow_links)
    if table is None:
        yield from folder.walk()
        return
    for path in find_paths(table, columns):
        yield path, folder.find_fault(path)


def find_paths(table: Path, columns: Mapping[str, str]) -> Iterator[str]:
    """Yield the normalized paths that a table lists; raises as `list_images`."""
    for row in read_table(table, columns):
        yield _normalise(row["path"])


def _from_folder(
    files: Iterable[tuple[str, PathFault | None]], folders: set[str], own_labels: bool
) -> Iterator[Source | Reject | None]:
    """The images among files, each with its fault or None; `folders` are the names of those in the root."""
    names = {name for name in folders if not is_hidden(name)}
    by_split = names <= set(_PARTS) and "train" in names and ("test" in names or {"query", "gallery"} <= names)
    depth = 2 if by_split else 1
    for path, fault in files:
        if posixpath.splitext(path)[1].lower() not in SUFFIXES:
            yield None
            continue
        parts = path.split("/")
        if fault:
            yield _reject(path, *fault)
        elif len(parts) <= depth and own_labels:
            split, role = _PARTS[parts[0]] if by_split and len(parts) > 1 else ("", "both")
            yield _source(path, path, split, role)
        elif len(parts) <= depth:
            location = f"in {'/'.join(parts[:-1]) or 'the root'}, not in the folder of a class"
            yield _reject(path, "E_LABEL_MISSING", f"the image is {location}")
        else:
            split, role = _PARTS[parts[0]] if by_split else ("", "both")
            yield _source(path, parts[depth - 1], split, role)


def _from_table(folder: DataFolder, rows: Iterable[Mapping[str, str]], own_labels: bool) -> Iterator[Source | Reject]:
    for number, row in enumerate(rows, start=1):
        path = _normalise(row["path"])
        if not path:
            yield _reject("", "E_PATH_MISSING", f"row {number}, with label {row['label']!r}, has no path")
        elif fault := folder.find_fault(path):
            yield _reject(path, *fault)
        else:
            label = row["label"].strip() or (path if own_labels else "")
            yield source_of_row({**row, "label": label}, path, path)


def source_of_row(
    row: Mapping[str, str], id_: str, path: str, shown: str = "", *, needs_label: bool = True
) -> Source | Reject:
    """Return the source of a row of a table, or the reject.

    Args:
        row: "label" and, if the table has them, "split", "role" and "attribute/<name>".
        id_: id, before normalization.
        path: path of the content.
        shown: name in a reject, if not the path.
        needs_label: whether a missing label is a fault.
    """
    label, shown = row.get("label", "").strip(), shown or path
    part, role = row.get("split", "").strip().lower(), row.get("role", "").strip().lower()
    if needs_label and not label:
        return _reject(shown, "E_LABEL_MISSING", "the row has no label")
    if "split" in row and part not in _PARTS:
        return _reject(shown, "E_SPLIT_UNKNOWN", f"expected {', '.join(_PARTS)}. Received: split {row['split']!r}")
    if role and role not in _ROLES:
        return _reject(shown, "E_ROLE_UNKNOWN", f"expected {', '.join(_ROLES)}. Received: role {row['role']!r}")
    split, usual = _PARTS.get(part, ("", "both"))
    attributes = tuple((key.removeprefix(ATTRIBUTE), row[key]) for key in row if key.startswith(ATTRIBUTE))
    return _source(path, label, split, role or usual, attributes, id_)


def _normalise(path: str) -> str:
    return posixpath.normpath(path) if path else ""


def _source(
    path: str, label: str, split: str, role: str, attributes: tuple[tuple[str, str], ...] = (), id_: str = ""
) -> Source | Reject:
    try:
        path.encode(), label.encode(), id_.encode()
    except UnicodeEncodeError:
        return _reject(path, "E_PATH_ENCODING", "the name is not UTF-8; rename the file")
    return Source(_nfc(id_ or path), path, _nfc(label), split, role, attributes)


def _reject(path: str, code: str, message: str) -> Reject:
    printable = path.encode("utf-8", "backslashreplace").decode()
    return Reject(printable, _nfc(printable), code, message)


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
