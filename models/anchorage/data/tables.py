"""Tables of images: CSV, TSV or Parquet files with at least the columns path and label."""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from anchorage.errors import DataError

_DEFAULTS = {"path": ("path",), "label": ("label", "class"), "split": ("split",), "role": ("role",)}
ATTRIBUTE = "attribute/"  # prefix of the names of additional columns
PATH = "path"  # additional column of vectors with ids: the path of the picture
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_table(
    path: str | os.PathLike,
    columns: Mapping[str, str],
    attributes: Sequence[str] = (),
    needed: Sequence[str] = ("path", "label"),
) -> Iterator[dict[str, str]]:
    """Read the rows of a table with standard column names; those not `needed` are optional.

    Args:
        path: a `.csv`, `.tsv` (UTF-8, quoted as in RFC 4180) or `.parquet` file.
        columns: column names of the table for "path", "label", "split", "role", if they differ. Other columns are
            ignored, except `attributes`.
        attributes: additional columns, with keys "attribute/<name>" in a row.
        needed: columns that must be there, by their standard names.

    Returns:
        One dict per row; a missing value is "".

    Raises:
        DataError: `E_DATA_MISSING` if there is no file, `E_TABLE_COLUMNS` if a column is missing,
            `E_TABLE_DAMAGED` if the file cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("E_DATA_MISSING", f"Expected a table at {path}. Received: no such file")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _from_parquet(path, columns, attributes, needed)
    if suffix in _DELIMITERS:
        return _from_text(path, columns, attributes, needed, _DELIMITERS[suffix])
    raise DataError("E_TABLE_DAMAGED", f"{path}: expected a table ending in .csv, .tsv or .parquet")


def _from_text(
    path: Path, columns: Mapping[str, str], attributes: Sequence[str], needed: Sequence[str], delimiter: str
) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter=delimiter, restval="", strict=True)
        try:
            names = _choose(path, list(reader.fieldnames or []), columns, attributes, needed)
            for row in reader:
                yield {ours: row[theirs] for ours, theirs in names.items()}
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError("E_TABLE_DAMAGED", f"{path}, near line {reader.line_num + 1}: {error}") from error


def _from_parquet(
    path: Path, columns: Mapping[str, str], attributes: Sequence[str], needed: Sequence[str]
) -> Iterator[dict[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = _choose(path, file.schema_arrow.names, columns, attributes, needed)
            for batch in file.iter_batches(columns=list(names.values())):
                values = [batch.column(theirs).to_pylist() for theirs in names.values()]
                for row in zip(*values, strict=True):
                    yield {ours: "" if value is None else str(value) for ours, value in zip(names, row, strict=True)}
    except (pa.ArrowException, OSError) as error:
        raise DataError("E_TABLE_DAMAGED", f"{path}: {error}") from error


def _choose(
    path: Path, header: list[str], columns: Mapping[str, str], attributes: Sequence[str], needed: Sequence[str]
) -> dict[str, str]:
    """Map standard names to columns of the table; raise if a required column is missing."""
    names = {}
    for ours, usual in _DEFAULTS.items():
        candidates = (columns[ours],) if ours in columns else usual
        present = [name for name in candidates if name in header]
        if present:
            names[ours] = present[0]
        elif ours in needed or ours in columns:
            raise DataError(
                "E_TABLE_COLUMNS",
                f"{path}: expected a column {' or '.join(map(repr, candidates))} for the {ours}. Received: {header}. "
                f"Set the right name in `data.columns`.",
            )
    for name in attributes:
        if name not in header:
            raise DataError(
                "E_TABLE_COLUMNS",
                f"{path}: expected a column {name!r}, which `evaluation` uses. Received: {header}",
            )
        names[f"{ATTRIBUTE}{name}"] = name
    return names
