"""Which images there are, what they show, and on which side of the split each class falls.

Pure listing: no image is opened. Layouts:

    root/<class>/**/image                              classes are dealt to train, val and test by seed
    root/{train,val,test}/<class>/**/image             as given; without val, part of the train classes become val
    root/{train,val,query,gallery}/<class>/**/image    likewise, with the test half in two roles
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

from anchorage.data.paths import DataFolder, PathFault
from anchorage.data.tables import ATTRIBUTE, read_table
from anchorage.errors import DataError

SPLITS = ("train", "val", "test")
MAX_REJECTS, MAX_REJECT_SHARE = 10, 0.001  # bad records that are put up with, unless the experiment says otherwise
SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".gif", ".bmp", ".webp"}

# What a folder or a table may call a part, and what it means: (split, role)
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
    """One image file: `id` is the NFC form of `path`, which is relative to the root; `split` is "" until dealt.

    `attributes` are further columns of its row, by name.
    """

    id: str
    path: str
    label: str
    split: str
    role: str
    attributes: tuple[tuple[str, str], ...] = ()


class Reject(NamedTuple):
    """One record that cannot be used, and why; `split` is "" where it was not yet known."""

    path: str
    id: str
    code: str
    message: str
    split: str = ""


class Listing(NamedTuple):
    """All sources in the order of their ids, the rejects, and how many files had no image's suffix.

    `unlisted` has a reason, with what to do, for each split that would have no images.
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
) -> Listing:
    """List a folder of images, or the images that a table names, with every class on one side.

    Args:
        root: folder that all paths are relative to.
        table: CSV, TSV or Parquet file; "" lists the folder.
        columns: the table's names for "path", "label", "split", "role", where they differ.
        val_share: part in [0, 1) of the classes outside test that become val.
        test_share: part in [0, 1) of all classes that become test, unless splits are given.
        seed: picks the classes.
        attributes: further columns of the table to keep with each image.
        follow_links: whether symbolic links may lead out of the root.

    Raises:
        DataError: `E_DATA_MISSING`, `E_TABLE_DAMAGED`, or `E_TABLE_COLUMNS`, also for attributes of a folder;
            `E_PATH_OUTSIDE` for a linked folder outside the root.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError("E_DATA_MISSING", f"Expected a folder of images at {root}. Received: no folder there")
    if attributes and not table:
        raise DataError(
            "E_TABLE_COLUMNS",
            f"Expected a table with the columns {list(attributes)}, which `evaluation` names. "
            f"Received: the folder {root}",
        )
    folder = DataFolder(root, follow_links=follow_links)
    items = _from_table(folder, read_table(table, columns or {}, attributes)) if table else _from_folder(folder)
    return assign_splits(items, val_share=val_share, test_share=test_share, seed=seed)


def assign_splits(
    items: Iterable[Source | Reject | None], *, val_share: float, test_share: float, seed: int
) -> Listing:
    """Make a listing of what was found: each id once, each class in one split.

    Args:
        items: sources, rejects, and None for a file that is no image.
        val_share: as in `list_images`, like the arguments below.
        test_share: see there.
        seed: see there.
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
            rejects.append(Reject(item.path, item.id, "E_ID_DUPLICATE", f"{same} was listed before", item.split))
        else:
            seen[item.id] = item.path
            sources.append(item)
    assigned = assign_classes(sources, val_share=val_share, test_share=test_share, seed=seed)
    return Listing(sorted(assigned), rejects, skipped, _explain_unlisted(sources, val_share, test_share))


def assign_classes(sources: list[Source], *, val_share: float, test_share: float, seed: int) -> list[Source]:
    """Give every class its split: all three by seed where none is given, val out of train where only that is missing.

    Classes are shuffled in the order of their names' bytes, so the result is the same on every machine.
    """
    given = {source.split for source in sources}
    if "val" in given or not sources:
        return sources
    dealt: dict[str, str] = {}
    labels = sorted({source.label for source in sources if source.split in ("", "train")})
    order = [labels[place] for place in np.random.default_rng(seed).permutation(len(labels))]
    if given == {""}:
        tests = _part(test_share, len(order))
        dealt.update(dict.fromkeys(order[:tests], "test"))
        order = order[tests:]
    dealt.update(dict.fromkeys(order, "train"))
    dealt.update(dict.fromkeys(order[: _part(val_share, len(order))], "val"))
    return [
        source._replace(split=dealt[source.label]) if source.split in ("", "train") else source for source in sources
    ]


def _explain_unlisted(sources: list[Source], val_share: float, test_share: float) -> dict[str, str]:
    """Why a split got no class, if it got none, and what helps: shares do nothing for data with splits of its own."""
    given = {source.split for source in sources}
    classes = len({source.label for source in sources if source.split in ("", "train")})
    dealt = {"test": test_share} if given == {""} else {}
    dealt |= {} if "val" in given else {"val": val_share}
    reasons = dict.fromkeys(SPLITS, "the data's own splits give it no image; give it some classes there")
    for split, share in dealt.items():
        reasons[split] = f"`data.{split}_share` is 0; raise it"
        if share:
            reasons[split] = f"each split needs a class of its own, but only {classes} can be dealt out; bring more"
    return reasons


def _part(share: float, count: int) -> int:
    """Share of a count, at least one and not all of them, unless the share is 0."""
    return min(max(1, int(share * count + 0.5)), count - 1) if share > 0 and count else 0


def find_files(
    root: Path, table: Path | None, columns: Mapping[str, str], *, follow_links: bool
) -> Iterator[tuple[str, PathFault | None]]:
    """The paths that `list_images` looks at, relative to the root, and why each is refused if it is.

    Raises:
        DataError: as there.
    """
    folder = DataFolder(root, follow_links=follow_links)
    if table is None:
        yield from folder.walk()
        return
    for row in read_table(table, columns):
        path = _normalise(row["path"])
        yield path, folder.find_fault(path)


def _from_folder(folder: DataFolder) -> Iterator[Source | Reject | None]:
    names = {path.name for path in folder.root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    by_split = names <= set(_PARTS) and "train" in names and ("test" in names or {"query", "gallery"} <= names)
    depth = 2 if by_split else 1
    for path, fault in folder.walk():
        if posixpath.splitext(path)[1].lower() not in SUFFIXES:
            yield None
            continue
        parts = path.split("/")
        if fault:
            yield _reject(path, *fault)
        elif len(parts) <= depth:
            place = f"in {'/'.join(parts[:-1]) or 'the root'}, not in the folder of a class"
            yield _reject(path, "E_LABEL_MISSING", f"the image lies {place}")
        else:
            split, role = _PARTS[parts[0]] if by_split else ("", "both")
            yield _source(path, parts[depth - 1], split, role)


def _from_table(folder: DataFolder, rows: Iterable[Mapping[str, str]]) -> Iterator[Source | Reject]:
    for number, row in enumerate(rows, start=1):
        path = _normalise(row["path"])
        if not path:
            yield _reject("", "E_PATH_MISSING", f"row {number}, of label {row['label']!r}, names no path")
        elif fault := folder.find_fault(path):
            yield _reject(path, *fault)
        else:
            yield source_of_row(row, path, path)


def source_of_row(
    row: Mapping[str, str], id_: str, path: str, shown: str = "", *, needs_label: bool = True
) -> Source | Reject:
    """The source that a row of a table stands for, or why it cannot be used.

    Args:
        row: its "label" and, where the table has them, "split", "role" and "attribute/<name>".
        id_: its id, before normalization.
        path: where its content is.
        shown: what to call it in a reject, if not by its path.
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
    kept = tuple((key.removeprefix(ATTRIBUTE), row[key]) for key in row if key.startswith(ATTRIBUTE))
    return _source(path, label, split, role or usual, kept, id_)


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
    shown = path.encode("utf-8", "backslashreplace").decode()
    return Reject(shown, _nfc(shown), code, message)


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
