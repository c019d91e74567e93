"""Tables of precomputed vectors: Parquet, NumPy with a metadata table, or the Arrow files of a Hugging Face data set.

    vectors.parquet             a column of lists of float16, float32 or float64, and text columns
    vectors.npy                 (M, D) floats; `vectors.parquet`, `.csv` or `.tsv` in the same folder has other columns
    folder/data-*.arrow         a saved `datasets.Dataset`; each folder of a `DatasetDict` is a split

Tables are read in batches, one at a time.
"""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from anchorage.data.listing import Listing, Reject, Source, assign_splits, source_of_row
from anchorage.data.tables import ATTRIBUTE, PATH
from anchorage.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 8_192  # rows per batch
_NAMES = {
    "vector": ("vector", "embedding", "embeddings"),
    "id": ("id",),
    "path": ("path", "image_path"),
    "label": ("label", "class"),
    "split": ("split",),
    "role": ("role",),
}
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


class Vector(NamedTuple):
    """A row of a table with its vector `(D,)` float32."""

    source: Source
    values: np.ndarray


class VectorTable:
    """Reads the rows of a table of vectors.

    Args:
        path: a `.parquet` or `.npy` file, or a folder with `.arrow` files.
        columns: column names of the table for "vector", "id", "path", "label", "split" and "role", if they differ from
            the usual ones. Only the vector is required: a missing id defaults to the path of the picture, or to the row
            number; a missing label is "". With an id, the path is kept as an additional column.
        attributes: additional columns to keep.

    Attributes:
        dimension: D, the length of the first vector.
        has_labels: whether the table has labels.
        has_paths: whether the path is an additional column.

    Raises:
        DataError: `E_DATA_MISSING`, `E_TABLE_DAMAGED`, `E_TABLE_COLUMNS` with all errors of the columns.
    """

    def __init__(
        self, path: str | os.PathLike, columns: Mapping[str, str] | None = None, attributes: Sequence[str] = ()
    ):
        self.path = Path(path)
        self._batches, schema = _open(self.path)
        self._names = _choose(self.path, schema, columns or {}, attributes)
        self.has_labels = "label" in self._names
        self.has_paths = f"{ATTRIBUTE}{PATH}" in self._names
        self.dimension = self._first_length()

    def rows(self) -> Iterator[dict[str, str]]:
        """Yield the texts of each row: "id", and those of "path", "label", "split", "role" and attributes present."""
        number = 0
        texts = {ours: theirs for ours, theirs in self._names.items() if ours != "vector"}
        for batch in self._read(list(dict.fromkeys(texts.values()))):
            values = {ours: batch.column(theirs).to_pylist() for ours, theirs in texts.items()}
            for index in range(batch.num_rows):
                row = {ours: "" if column[index] is None else str(column[index]) for ours, column in values.items()}
                row["id"] = row.get("id") or row.get("path") or f"row-{number + 1:07d}"
                number += 1
                yield row

    def vectors(self) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Yield batches of vectors `(n, D)` float32, each with the fault of every row, "" if it is valid."""
        name = self._names["vector"]
        for batch in self._read([name]):
            yield _matrix(batch.column(name), self.dimension)

    def _read(self, columns: list[str]) -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa

        try:
            yield from self._batches(columns)
        except (pa.ArrowException, OSError, ValueError, csv.Error, UnicodeDecodeError) as error:
            raise DataError("E_TABLE_DAMAGED", f"{self.path} cannot be read: {error}") from error

    def _first_length(self) -> int:
        import pyarrow.compute as pc

        name = self._names["vector"]
        for batch in self._read([name]):
            lengths = pc.drop_null(pc.list_value_length(batch.column(name)))
            if len(lengths) and lengths[0].as_py():
                return lengths[0].as_py()
        raise DataError("E_DATA_EMPTY", f"Expected vectors in {self.path}. Received: no row with a vector")


def is_vector_data(path: str | os.PathLike, columns: Mapping[str, str] | None = None) -> bool:
    """Return whether a path is data of vectors, not images: by its suffix, its files, or a Parquet column of lists."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path = Path(path)
    try:
        if path.is_dir():
            return (path / "dataset_dict.json").is_file() or any(path.glob("*.arrow"))
        if path.suffix.lower() != ".parquet" or not path.is_file():
            return path.suffix.lower() == ".npy"
        schema = parquet.read_schema(path)
    except (pa.ArrowException, OSError, ValueError):
        return False  # reading the table raises the error
    names = [(columns or {}).get("vector")] if (columns or {}).get("vector") else _NAMES["vector"]
    return any(name in schema.names and _is_list(schema.field(name).type) for name in names)


def vector_files(path: Path) -> list[Path]:
    """All files that a table of vectors consists of."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.suffix in {".arrow", ".json"})
    beside = _table_beside(path) if path.suffix.lower() == ".npy" else None
    return [path, *([beside] if beside else [])]


def list_vectors(
    table: VectorTable, *, val_share: float, test_share: float, seed: int, own_labels: bool = False
) -> Listing:
    """List the rows of a table, with all rows of a class in one split; `path` of a `Source` is the row number.

    Args:
        table: table of vectors.
        val_share: share in [0, 1) of the classes outside test that become val.
        test_share: share in [0, 1) of all classes that become test, unless the table has splits.
        seed: seed of the assignment of classes.
        own_labels: whether a vector without a label gets a class of its own, named after its id.
    """

    def items() -> Iterator[Source | Reject]:
        for number, row in enumerate(table.rows()):
            if own_labels and not row.get("label", "").strip():
                row["label"] = row["id"]
            shown = f"row {number + 1}"
            yield source_of_row(row, row["id"], str(number), shown, needs_label=table.has_labels and not own_labels)

    return assign_splits(items(), val_share=val_share, test_share=test_share, seed=seed)


def read_vectors(table: VectorTable, sources: Iterable[Source]) -> Iterator[Vector | Reject]:
    """Yield the vectors of some rows in the order of the table, with a `Reject` for each invalid one.

    Args:
        table: table of vectors.
        sources: rows to read, from `list_vectors`.
    """
    source_of_number = {int(source.path): source for source in sources}
    number = 0
    for matrix, reasons in table.vectors():
        for values, reason in zip(matrix, reasons, strict=True):
            if source := source_of_number.get(number):
                if reason:
                    yield Reject(f"row {number + 1}", source.id, "E_VECTOR_UNUSABLE", reason, source.split)
                else:
                    yield Vector(source, values)
            number += 1


def _open(path: Path) -> "tuple[Callable[[list[str]], Iterator[pa.RecordBatch]], pa.Schema]":
    """Return a function that reads batches of some columns of a table, and the schema of the table."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            return _open_arrow(path)
        if not path.is_file():
            raise DataError("E_DATA_MISSING", f"Expected a table of vectors at {path}. Received: nothing there")
        if suffix == ".npy":
            return _open_numpy(path)
        if suffix == ".parquet":
            return partial(_parquet_batches, path), parquet.read_schema(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError("E_TABLE_DAMAGED", f"{path} cannot be read: {error}") from error
    raise DataError("E_TABLE_DAMAGED", f"Expected .parquet, .npy or a folder of .arrow files. Received: {path}")


def _parquet_batches(path: Path, columns: list[str], rows: int = _ROWS) -> "Iterator[pa.RecordBatch]":
    import pyarrow.parquet as parquet

    # `parquet.read_table` would add columns for parent folders of the form `name=value`.
    with parquet.ParquetFile(path) as file:
        yield from file.iter_batches(rows, columns=columns)


def _open_numpy(path: Path) -> "tuple[Callable[[list[str]], Iterator[pa.RecordBatch]], pa.Schema]":
    import pyarrow as pa
    import pyarrow.parquet as parquet

    matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    if matrix.ndim != 2 or matrix.dtype.kind != "f":
        raise ValueError(f"expected floats of shape (M, D). Received: {matrix.dtype} {matrix.shape}")
    beside = _table_beside(path)
    texts = None
    if beside is not None:
        texts = parquet.read_table(beside) if beside.suffix == ".parquet" else _read_text(beside)
        if texts.num_rows != len(matrix):
            raise ValueError(f"expected {len(matrix)} rows in {beside}, one a vector. Received: {texts.num_rows}")
    vector = pa.field("vector", pa.list_(pa.from_numpy_dtype(matrix.dtype), matrix.shape[1]))

    def batches(columns: list[str]) -> Iterator[pa.RecordBatch]:
        for start in range(0, len(matrix), _ROWS):
            part = np.ascontiguousarray(matrix[start : start + _ROWS])
            arrays = {"vector": pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), matrix.shape[1])}
            if texts is not None:
                kept = texts.slice(start, len(part)).combine_chunks()
                arrays |= {name: kept[name].chunk(0) for name in columns if name != "vector"}
            yield pa.record_batch(arrays).select(columns) if columns else _no_columns(len(part))

    return batches, pa.schema([vector, *(texts.schema if texts is not None else [])])


def _table_beside(path: Path) -> Path | None:
    """The table with the other columns of a `.npy` file."""
    return next((table for end in (".parquet", *_DELIMITERS) if (table := path.with_suffix(end)).is_file()), None)


def _read_text(path: Path) -> "pa.Table":
    import pyarrow as pa

    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter=_DELIMITERS[path.suffix], restval="", strict=True)
        rows = list(reader)
    return pa.table({name: pa.array([row[name] for row in rows], pa.string()) for name in reader.fieldnames or []})


def _no_columns(rows: int) -> "pa.RecordBatch":
    """Return a batch without columns, for a table that has only vectors."""
    import pyarrow as pa

    return pa.record_batch({"": pa.nulls(rows)})


def _open_arrow(folder: Path) -> "tuple[Callable[[list[str]], Iterator[pa.RecordBatch]], pa.Schema]":
    import pyarrow as pa

    parts: list[tuple[str, Path]] = [("", folder)]
    if (folder / "dataset_dict.json").is_file():
        names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        parts = [(name, folder / name) for name in names]
    files = [(split, file) for split, part in parts for file in sorted(part.glob("*.arrow"))]
    if not files:
        raise DataError("E_DATA_MISSING", f"Expected .arrow files in {folder}. Received: none")
    classes = _class_names(files[0][1].parent)

    def batches(columns: list[str]) -> Iterator[pa.RecordBatch]:
        for split, file in files:
            with pa.memory_map(str(file)) as memory, pa.ipc.open_stream(memory) as reader:
                for batch in reader:
                    yield _named(batch, split, classes, columns)

    with pa.memory_map(str(files[0][1])) as memory, pa.ipc.open_stream(memory) as reader:
        schema = reader.schema
    return batches, schema.append(pa.field("split", pa.string())) if parts[0][0] else schema


def _class_names(folder: Path) -> dict[str, list[str]]:
    """Read the class names of each `ClassLabel` column from `dataset_info.json`, if it exists."""
    info = folder / "dataset_info.json"
    features = json.loads(info.read_text(encoding="utf-8")).get("features", {}) if info.is_file() else {}
    return {name: kind["names"] for name, kind in features.items() if isinstance(kind, dict) and "names" in kind}


def _named(
    batch: "pa.RecordBatch", split: str, classes: Mapping[str, Sequence[str]], columns: list[str]
) -> "pa.RecordBatch":
    """Select columns of a batch, with class names for class numbers, and the split of its folder."""
    import pyarrow as pa

    arrays = {}
    for name in columns:
        if name == "split" and split:
            arrays[name] = pa.array([split] * batch.num_rows)
        elif name in classes:
            values = batch.column(name).to_pylist()
            arrays[name] = pa.array([None if value is None or value < 0 else classes[name][value] for value in values])
        else:
            arrays[name] = batch.column(name)
    return pa.record_batch(arrays) if arrays else _no_columns(batch.num_rows)


def _choose(path: Path, schema: "pa.Schema", columns: Mapping[str, str], attributes: Sequence[str]) -> dict[str, str]:
    """Map standard names to columns of the table; raise one error for all faults."""
    names, faults = {}, []
    for ours, usual in _NAMES.items():
        candidates = (columns[ours],) if ours in columns else usual
        present = [name for name in candidates if name in schema.names]
        if present:
            names[ours] = present[0]
        elif ours == "vector" or ours in columns:
            faults.append(f"no column {' or '.join(map(repr, candidates))} for the {ours}; see `data.columns`")
    for name in attributes:
        if name in schema.names:
            names[f"{ATTRIBUTE}{name}"] = name
        else:
            faults.append(f"no column {name!r}, which `evaluation` names")
    if {"id", "path"} <= names.keys() and names.setdefault(f"{ATTRIBUTE}{PATH}", names["path"]) != names["path"]:
        faults.append(f"the attribute {PATH!r} is the path of the picture, {names['path']!r}; rename the other column")
    if "vector" in names and not _is_list(kind := schema.field(names["vector"]).type):
        faults.append(f"{names['vector']!r} must be lists of float16, float32 or float64, not {kind}")
    if faults:
        raise DataError("E_TABLE_COLUMNS", f"{path}: {'; '.join(faults)}. The table has {schema.names}")
    return names


def _is_list(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and pa.types.is_floating(kind.value_type)


def _matrix(column: "pa.Array", dimension: int) -> tuple[np.ndarray, list[str]]:
    """Convert lists to rows `(n, D)` float32, with the fault of each row, "" if it is valid; invalid rows are zero."""
    import pyarrow.compute as pc

    lengths = np.asarray(pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False), np.int64)
    values = pc.list_flatten(column).to_numpy(zero_copy_only=False).astype(np.float32)
    fits = lengths == dimension
    matrix = np.zeros((len(lengths), dimension), np.float32)
    matrix[fits] = values[np.repeat(fits, lengths)].reshape(-1, dimension)
    finite = np.asarray(np.isfinite(matrix).all(axis=1))
    matrix[~finite] = 0.0
    reasons = []
    for length, good, row in zip(lengths, finite, matrix, strict=True):
        if length != dimension:
            reasons.append(f"expected {dimension} numbers, as in the first row. Received: {length}")
        elif not good:
            reasons.append("expected finite numbers. Received: NaN, infinity or a missing number")
        else:
            reasons.append("" if row.any() else "a vector of zeros has no direction")
    return matrix, reasons
