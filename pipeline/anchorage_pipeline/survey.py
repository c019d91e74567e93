"""Inspection of a folder or table of images, or of a table of vectors, for `anchorage init`."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anchorage.data.intake import count_by_code, format_reject, read_image
from anchorage.data.listing import SPLITS, SUFFIXES, TEST_SHARE, Listing, Reject, Source
from anchorage.data.remote import holds_vectors
from anchorage.errors import DataError, UsageError
from anchorage.progress import track
from anchorage.storage import is_remote
from anchorage_pipeline.config import Data, Experiment
from anchorage_pipeline.inspection import shorter_side
from anchorage_pipeline.plain import list_sources
from anchorage_pipeline.source import locate_data, open_vectors

_OPENED = 100  # images opened, spread evenly over all
_FEWEST = 3  # classes that can be divided into train, val and test
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_USUAL = {
    "path": ("path", "image_path", "image", "file", "filename", "file_name", "filepath"),
    "label": ("label", "class", "class_name", "category", "target"),
}
_KNOWN = {"path": {"path"}, "label": {"label", "class"}}  # names that need no `data.columns`


@dataclass(frozen=True)
class Survey:
    """Properties of the data.

    Args:
        path: as given.
        layout: what kind of data it is, for the user.
        listing: the labelled images or vectors, each with its split.
        labelled: whether there are classes to train on.
        given: whether the data defines the split.
        test_share: share of the classes in the test split, unless the split is given.
        val_share: share of the other classes in the validation split, where the default would be a single class.
        columns: columns of the table for path and label, where they have unusual names.
        dimension: length of a vector; 0 for images.
        sides: shorter side in pixels of each image that was opened.
        broken: images that were opened and cannot be decoded.
        records: number of all images or vectors.
    """

    path: str
    layout: str
    listing: Listing
    labelled: bool
    records: int
    given: bool = False
    test_share: float = TEST_SHARE
    val_share: float | None = None
    columns: tuple[tuple[str, str], ...] = ()
    dimension: int = 0
    sides: tuple[int, ...] = ()
    broken: tuple[Reject, ...] = ()

    @property
    def input(self) -> str:
        """The value of `data.input`."""
        return "vectors" if self.dimension else "images"

    @property
    def sizes(self) -> Counter[str]:
        """Number of images of each class."""
        return Counter(source.label for source in self.listing.sources)

    @property
    def side(self) -> int:
        """Median of the shorter sides in pixels."""
        return int(np.median(self.sides)) if self.sides else 0

    @property
    def train_counts(self) -> list[int]:
        """Number of images of each training class."""
        return list(Counter(s.label for s in self.listing.sources if s.split == "train").values())

    @property
    def shared_classes(self) -> int:
        """Number of classes with images in several splits."""
        pairs = {(source.label, source.split) for source in self.listing.sources}
        return len(pairs) - len({label for label, _ in pairs})

    @property
    def has_label_column(self) -> bool:
        """Whether the labels have a column other than that of the paths; true without a table."""
        names = {"path": "path", "label": "label", **dict(self.columns)}
        return names["label"] != names["path"]

    @property
    def amount(self) -> str:
        """The size of the data, in words."""
        if not self.labelled:
            return f"{self.records:,} {self.input}"
        median = int(np.median(list(self.sizes.values())))
        return (
            f"{len(self.listing.sources):,} {self.input} of {len(self.sizes):,} classes, {median:,} per class (median)"
        )

    @property
    def splits(self) -> str:
        """Images and classes of each split, as in "train 120 / 10, val 24 / 2, test 144 / 12"."""
        counts = self._count_splits().items()
        return ", ".join(f"{split} {count[self.input]:,} / {count['classes']:,}" for split, count in counts)

    def describe(self) -> list[str]:
        """Two to five lines for the user."""
        skipped = f" (other files: {self.listing.skipped:,})" if self.listing.skipped else ""
        lines = [f"data     {self.layout} in {self.path}: {self.amount}{skipped}"]
        if self.sides:
            least, most = min(self.sides), max(self.sides)
            of = f"median of {len(self.sides)} images"
            lines.append(f"sizes    shorter side {self.side} pixels ({of}), {least} to {most}")
        if self.labelled:
            sizes = list(self.sizes.values())
            lines.append(f"split    {self.input} / classes: {self.splits}")
            lines.append(
                f"classes  {min(sizes):,} to {max(sizes):,} {self.input}; with a single one: {sizes.count(1):,}"
            )
        if self.broken:
            opened = len(self.sides) + len(self.broken)
            lines.append(f"rejects  {len(self.broken)} of {opened} opened images: {format_reject(self.broken[0])}")
        return lines

    def document(self) -> dict[str, Any]:
        """The same as plain values."""
        sizes, sides = list(self.sizes.values()) if self.labelled else [], self.sides
        return {
            "path": self.path,
            "layout": self.layout,
            "input": self.input,
            "records": self.records,
            "labelled": self.labelled,
            "split_given": self.given,
            "classes": len(sizes),
            "class_sizes": _spread(sizes) | {"single": sizes.count(1)} if sizes else None,
            "splits": self._count_splits() if self.labelled else None,
            "shorter_sides": _spread(sides) | {"opened": len(sides)} if sides else None,
            "rejects": [reject._asdict() for reject in self.broken],
            "other_files": self.listing.skipped,
        }

    def _count_splits(self) -> dict[str, dict[str, int]]:
        parts = {split: [s.label for s in self.listing.sources if s.split == split] for split in SPLITS}
        return {split: {self.input: len(labels), "classes": len(set(labels))} for split, labels in parts.items()}


def _spread(values: Sequence[int]) -> dict[str, int]:
    return {"min": min(values), "median": int(np.median(values)), "max": max(values)}


def survey_data(path: str) -> Survey:
    """Inspect data whose form is not known.

    Raises:
        UsageError: E_DATA_MISSING, E_DATA_LAYOUT, E_TOO_FEW_CLASSES.
        DataError: E_DATA_EMPTY, E_TABLE_DAMAGED, E_TABLE_COLUMNS, E_SPLIT_EMPTY.
    """
    if not is_remote(path) and not Path(path).exists():
        raise UsageError(
            "E_DATA_MISSING",
            f"Expected a folder of images, a table of images or a table of vectors. Received: {path}, which does not "
            "exist. Paths are relative to the current folder.",
        )
    found = _survey_vectors(path) if holds_vectors(path) else _survey_images(path)
    if found.labelled:
        _check_classes(found)
    if found.labelled and not found.given and len(found.sizes) == _FEWEST:
        share = 0.3  # one class for each split, where the default share would take two
        listing = _list(path, dict(found.columns), found.input, test_share=share)
        found = replace(found, test_share=share, listing=listing)
    elif found.labelled and not found.given and _has_single_validation_class(found):
        share = 0.4  # two classes or more: among images of a single class every result is right
        listing = _list(path, dict(found.columns), found.input, val_share=share)
        found = replace(found, val_share=share, listing=listing)
    return found


def _has_single_validation_class(found: Survey) -> bool:
    classes = {split: {s.label for s in found.listing.sources if s.split == split} for split in ("train", "val")}
    return len(classes["val"]) == 1 and len(classes["train"]) > 3  # three are left


def _survey_vectors(path: str) -> Survey:
    table = open_vectors(Experiment.model_validate({"name": "unnamed", "data": {"path": path, "input": "vectors"}}))
    listing = _list(path, {}, "vectors")
    return Survey(
        path,
        f"table of vectors with {table.dimension:,} numbers each",
        listing,
        labelled=table.has_labels,
        records=len(listing.sources),
        given=any(row.get("split") for row in table.rows()),
        dimension=table.dimension,
    )


def _survey_images(path: str) -> Survey:
    root, table = locate_data(Experiment.model_validate({"name": "unnamed", "data": {"path": path}}))
    columns = _choose_columns(table) if table else {}
    no_labels = columns.get("label") == columns.get("path", "path")
    listing = _list(path, columns, "images")
    without = [reject for reject in listing.rejects if reject.code == "E_LABEL_MISSING"]
    labelled = not no_labels and len(listing.sources) >= len(without) and bool(listing.sources)
    images: list[Source | Reject] = [*listing.sources, *without]
    if not images:
        raise DataError(
            "E_DATA_EMPTY",
            f"Expected images ({', '.join(sorted(SUFFIXES))}) in {path}. Found none among {listing.skipped} other "
            f"files; rejected: {count_by_code(listing.rejects)}",
        )
    layout, given = _layout(table, listing, labelled)
    if labelled and not given and not table:
        _check_names(path, {source.label for source in listing.sources})
    sides, broken = _open_some(root, sorted(images, key=lambda image: image.id))
    return Survey(
        path,
        layout,
        listing,
        labelled,
        len(images),
        given,
        columns=tuple(columns.items()),
        sides=tuple(sides),
        broken=tuple(broken),
    )


def _layout(table: Path | None, listing: Listing, labelled: bool) -> tuple[str, bool]:
    """The kind of data, and whether it defines the split."""
    if table:
        given = "split" in _header(table)
        return f"table of images {'with' if labelled else 'without'} labels{' and splits' if given else ''}", given
    if not labelled:
        return "folder of images without labels", False
    given = any(source.label != source.id.split("/")[0] for source in listing.sources)
    return ("folders of splits, each with one folder per class" if given else "one folder per class"), given


def _check_names(path: str, labels: set[str]) -> None:
    """Raise if folders that are meant as splits would be taken for classes."""
    if {"train", "training"} & {label.lower() for label in labels}:
        raise UsageError(
            "E_DATA_LAYOUT",
            f"Expected folders of classes in {path}, or the folders train and test, optionally val, and no others. "
            f"Received: {', '.join(sorted(labels)[:5])}. Rename or move the folders.",
        )


def _check_classes(found: Survey) -> None:
    counts = Counter(source.split for source in found.listing.sources)
    if not found.given and len(found.sizes) < _FEWEST:
        first = found.listing.sources[0]
        nested = len(found.sizes) == 1 and first.id.count("/") > 1
        raise UsageError(
            "E_TOO_FEW_CLASSES",
            f"Expected images of at least {_FEWEST} classes, to train, validate and test on different ones. Received: "
            f"{len(found.sizes)} in {found.path}. "
            + (f"If the folders of the classes lie in {first.label}, give {Path(found.path, first.label)}. " * nested)
            + "To search images without training, put them directly into one folder, and give that folder.",
        )
    if found.given and (empty := [split for split in SPLITS if not counts[split]]):
        raise DataError("E_SPLIT_EMPTY", f"The split {empty[0]} has no images: {found.listing.unlisted[empty[0]]}.")


def _open_some(root: Path, images: Sequence[Source | Reject]) -> tuple[list[int], list[Reject]]:
    """The shorter sides of an evenly spaced sample, and those of it that cannot be decoded."""
    sides, broken = [], []
    for row in track(np.unique(np.linspace(0, len(images) - 1, _OPENED).astype(int)), "opening images"):
        data, fault = read_image(root / images[row].path, _default("max_pixels"))
        if fault:
            broken.append(Reject(images[row].path, images[row].id, *fault))
        else:
            sides.append(shorter_side(data))
    if not sides:
        raise DataError("E_NO_IMAGES", f"None of {len(broken)} images can be read. First: {format_reject(broken[0])}")
    return sides, broken


def _choose_columns(table: Path) -> dict[str, str]:
    """Columns of a table for path and label, where their names are not the expected ones."""
    header = _header(table)
    found = {ours: next((name for name in header if name.lower() in usual), "") for ours, usual in _USUAL.items()}
    if header and not found["path"]:
        raise DataError(
            "E_TABLE_COLUMNS",
            f"{table}: expected a column with the paths of the images, named {' or '.join(_USUAL['path'])}. "
            f"Received: {header}. Rename the column.",
        )
    # Without a column of labels each image is a class of its own.
    found["label"] = found["label"] or found["path"]
    return {ours: name for ours, name in found.items() if header and name not in _KNOWN[ours]}


def _header(table: Path) -> list[str]:
    """Names of the columns; none of a damaged table, about which its reader raises."""
    suffix = table.suffix.lower()
    try:
        if suffix in _DELIMITERS:
            with table.open(newline="", encoding="utf-8-sig") as file:
                return next(csv.reader(file, delimiter=_DELIMITERS[suffix]), [])
        import pyarrow.parquet as parquet

        return parquet.read_schema(table).names
    except (OSError, ValueError, csv.Error):
        return []


def _list(path: str, columns: Mapping[str, str], input_: str, **shares: float) -> Listing:
    data: dict[str, Any] = {"path": path, "columns": columns, "input": input_, **shares}
    experiment = Experiment.model_validate({"name": "unnamed", "data": data})
    return list_sources(experiment, val_share=experiment.data.val_share)


def _default(key: str):
    return Data.model_fields[key].default
