"""Embedding tables: Parquet files with one row per image (id, label, role, split, additional columns, vector).

`vector` is a fixed-size list of float32, which any Parquet reader can read as a matrix. A table is one file, or a
folder of several files, as a Beam job writes them.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anchorage.data.tables import ATTRIBUTE
from anchorage.errors import DataError
from anchorage.files import TEMPORARY, flush_folder

if TYPE_CHECKING:
    import pyarrow

TEXT_COLUMNS = ("id", "label", "role", "split")
_BATCH = 8_192  # vectors read at once


@dataclass(frozen=True)
class Embeddings:
    """Embeddings with id, label, role and split of each row.

    Args:
        ids: `(M,)` object array of str, unique.
        labels: `(M,)` object array of class names.
        roles: `(M,)` object array of "query", "gallery" or "both".
        splits: `(M,)` object array, "train", "val" or "test"; "" for images without a split.
        vectors: `(M, D)` float32.
        columns: name -> `(M,)` object array of str: additional columns of the data.
    """

    ids: np.ndarray
    labels: np.ndarray
    roles: np.ndarray
    splits: np.ndarray
    vectors: np.ndarray
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        texts = {"ids": self.ids, "labels": self.labels, "roles": self.roles, "splits": self.splits, **self.columns}
        shapes = {**{name: np.shape(values) for name, values in texts.items()}, "vectors": np.shape(self.vectors)}
        if len({shape[:1] for shape in shapes.values()}) > 1 or [*map(len, shapes.values())] != [*[1] * len(texts), 2]:
            raise DataError("E_VECTOR_SHAPE", f"Expected columns of one length and (M, D) vectors. Received: {shapes}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dimension(self) -> int:
        return self.vectors.shape[1]

    def select(self, rows: np.ndarray) -> "Embeddings":
        """Select rows by number or by a mask."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        texts = (self.ids[rows], self.labels[rows], self.roles[rows], self.splits[rows])
        return Embeddings(*texts, self.vectors[rows], columns)


def embedding_schema(dimension: int, columns: Iterable[str] = ()) -> "pyarrow.Schema":
    """Return the Parquet schema of a table of vectors of this dimension, with additional text columns."""
    import pyarrow as pa

    vector = pa.list_(pa.float32(), dimension)
    return pa.schema([*((name, pa.string()) for name in (*TEXT_COLUMNS, *columns)), ("vector", vector)])


def write_table(path: str | os.PathLike, embeddings: Embeddings, facts: Mapping[str, str] | None = None) -> None:
    """Write one Parquet file atomically, with `facts` as metadata of the file."""
    import pyarrow as pa

    columns = [embeddings.ids, embeddings.labels, embeddings.roles, embeddings.splits, *embeddings.columns.values()]
    values = pa.array(np.ascontiguousarray(embeddings.vectors, np.float32).reshape(-1))
    schema = embedding_schema(embeddings.dimension, embeddings.columns).with_metadata(dict(facts or {}) or None)
    arrays = [pa.array(list(column), pa.string()) for column in columns]
    arrays.append(pa.FixedSizeListArray.from_arrays(values, embeddings.dimension))
    _write(path, pa.Table.from_arrays(arrays, schema=schema))


def read_table(path: str | os.PathLike, splits: Sequence[str] | None = None) -> Embeddings:
    """Read a table, sorted by split, label and id, so that the row order does not depend on how it was written.

    Args:
        path: a Parquet file, or a folder whose `*.parquet` files are one table.
        splits: splits to read; None for all.

    Raises:
        DataError: `E_TABLE_MISSING`, `E_TABLE_DAMAGED`, `E_ID_DUPLICATE`, `E_VECTOR_SHAPE` if the files have vectors of
            different dimensions, `E_SPLIT_EMPTY` if no rows are left.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    files = table_files(Path(path))
    parts = [_read(file) for file in files]
    _check_columns(path, parts)
    dimensions = {part.schema.field("vector").type.list_size for part in parts}
    if len(dimensions) > 1:
        raise DataError("E_VECTOR_SHAPE", f"Expected vectors of one dimension in {path}. Received: {dimensions}")
    table = pa.concat_tables(parts)
    present = sorted(pc.unique(table["split"]).to_pylist())
    if splits is not None:
        table = table.filter(pc.is_in(table["split"], pa.array(list(splits), pa.string())))
    if not len(table):
        raise _no_split(path, splits, present)
    table = table.sort_by([(name, "ascending") for name in ("split", "label", "id")]).combine_chunks()
    _check_ids(path, table["id"])
    vectors = table["vector"].combine_chunks()
    matrix = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(table), dimensions.pop())
    ids, labels, roles, row_splits = (table[name].to_numpy(zero_copy_only=False) for name in TEXT_COLUMNS)
    additional = [name for name in table.schema.names if name not in {*TEXT_COLUMNS, "vector"}]
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in additional}
    return Embeddings(ids, labels, roles, row_splits, np.ascontiguousarray(matrix, np.float32), columns)


def map_gallery(
    path: str | os.PathLike, file: str | os.PathLike, splits: Sequence[str] | None = None
) -> tuple[Embeddings, np.ndarray]:
    """Write the vectors of the gallery of a table to a file that is mapped into memory, and read the other columns.

    The vectors of a few thousand rows are in memory at once.

    Args:
        path: as for `read_table`.
        file: `.npy` file to write.
        splits: splits to read; None for all.

    Returns:
        The rows with role "gallery" or "both", file after file by name and in each in its order, whose vectors are
        mapped from `file`; and the `(N, D)` vectors of the rows with role "query".

    Raises:
        DataError: as `read_table`, and `E_INDEX_EMPTY` if no row is of the gallery.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    files = table_files(Path(path))
    parts = [read_columns(each, TEXT_COLUMNS, further=True) for each in files]
    _check_columns(path, parts)
    table = pa.concat_tables(parts)
    chosen = pc.is_in(table["split"], pa.array(list(splits), pa.string())) if splits is not None else None
    wanted = np.ones(len(table), bool) if chosen is None else chosen.to_numpy()
    if not wanted.any():
        raise _no_split(path, splits, sorted(pc.unique(table["split"]).to_pylist()))
    asks = pc.equal(table["role"], "query").to_numpy()
    rows, queries = np.flatnonzero(wanted & ~asks), []
    if not len(rows):
        raise DataError("E_INDEX_EMPTY", f"Expected rows of the gallery in {path}. Received: queries only")
    texts = table.take(pa.array(rows))
    _check_ids(path, texts["id"])

    vectors: np.ndarray | None = None
    read = written = 0
    for matrix in _read_vectors(files):
        if vectors is None:
            vectors = np.lib.format.open_memmap(file, "w+", np.float32, (len(rows), matrix.shape[1]))
        if matrix.shape[1] != vectors.shape[1]:
            dimensions = {vectors.shape[1], matrix.shape[1]}
            raise DataError("E_VECTOR_SHAPE", f"Expected vectors of one dimension in {path}. Received: {dimensions}")
        place = slice(read, read + len(matrix))
        kept = matrix[wanted[place] & ~asks[place]]
        vectors[written : written + len(kept)] = kept
        queries.append(matrix[wanted[place] & asks[place]])
        read, written = read + len(matrix), written + len(kept)
    columns = {name: texts[name].to_numpy(zero_copy_only=False) for name in texts.column_names}
    ids, labels, roles, row_splits = (columns.pop(name) for name in TEXT_COLUMNS)
    mapped = np.load(file, mmap_mode="r")
    return Embeddings(ids, labels, roles, row_splits, mapped, columns), np.concatenate(queries)


def is_embedding_table(path: str | os.PathLike) -> bool:
    """Return whether a file has the columns of an embedding table, or a folder has Parquet files."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path = Path(path)
    if path.is_dir():
        return any(path.glob("*.parquet"))
    try:
        schema = parquet.read_schema(path)
    except (pa.ArrowException, OSError, ValueError):
        return False
    if not {*TEXT_COLUMNS, "vector"} <= set(schema.names):
        return False
    kind = schema.field("vector").type
    return pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float32()


def read_fingerprint(path: str | os.PathLike) -> str:
    """Return the fingerprint of the model that made the embeddings of a table; "" if the table does not name it.

    Raises:
        DataError: `E_TABLE_MISSING`, `E_TABLE_DAMAGED`; `E_RELEASE_MIXED` if its files are of several models.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        metadata = [parquet.read_schema(file).metadata or {} for file in table_files(Path(path))]
    except (pa.ArrowException, OSError) as error:
        raise DataError("E_TABLE_DAMAGED", f"Expected Parquet files at {path}. Received: {error}") from error
    fingerprints = sorted({each.get(b"model_fingerprint", b"").decode() for each in metadata})
    if len(fingerprints) > 1:
        raise DataError("E_RELEASE_MIXED", f"Expected embeddings of one model in {path}. Received: {fingerprints}")
    return fingerprints[0]


def count_rows(path: str | os.PathLike) -> dict[str, int]:
    """Count the rows of each split of a table, without reading the vectors."""
    counts: Counter[str] = Counter()
    for file in table_files(Path(path)):
        counts.update(read_columns(file, ("split",))["split"].to_pylist())
    return dict(sorted(counts.items()))


def write_ids(path: str | os.PathLike, embeddings: Embeddings, pixels: Sequence[str] | None = None) -> None:
    """Write id, label, role and split of each row of an index, and its additional columns, in row order.

    Args:
        path: Parquet file.
        embeddings: rows of the index.
        pixels: `content_digest` of the image of each row, by which a search recognizes its query in the gallery.
    """
    import pyarrow as pa

    columns = {"id": embeddings.ids, "label": embeddings.labels, "role": embeddings.roles, "split": embeddings.splits}
    if pixels is not None:
        columns["pixels"] = np.asarray(pixels, object)
    columns |= {f"{ATTRIBUTE}{name}": values for name, values in embeddings.columns.items()}
    _write(path, pa.table({name: pa.array(list(column), pa.string()) for name, column in columns.items()}))


def read_ids(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read the columns of a file written by `write_ids` as object arrays, in row order.

    They are `id`, `label` and `role`, and, except in earlier releases, `split`, `pixels`, and `attribute/<name>` for
    each additional column of the data.
    """
    table = read_columns(Path(path), ("id", "label", "role"), further=True)
    # Not `to_numpy`: for strings it imports pandas, which takes longer than everything else here.
    return {name: np.array(table[name].to_pylist(), object) for name in table.column_names}


def table_files(path: Path) -> list[Path]:
    """List the files of a table, sorted; raise `E_TABLE_MISSING` if there are none."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise DataError("E_TABLE_MISSING", f"Expected an embedding table (*.parquet) at {path}. Received: no such file")
    return files


def _read(file: Path) -> "pyarrow.Table":
    table = read_columns(file, (*TEXT_COLUMNS, "vector"), further=True)
    _check_kind(file, table.schema.field("vector").type)
    return table


def _read_vectors(files: Iterable[Path]) -> Iterator[np.ndarray]:
    """Yield the vectors of files in parts `(n, D)`."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    for file in files:
        try:
            with parquet.ParquetFile(file) as reader:
                if absent := {"vector"} - set(reader.schema_arrow.names):
                    raise DataError("E_TABLE_DAMAGED", f"Expected the column {absent.pop()} in {file}. Received: none")
                kind = reader.schema_arrow.field("vector").type
                _check_kind(file, kind)
                for batch in reader.iter_batches(_BATCH, columns=["vector"]):
                    column = batch.column(0)
                    if column.null_count:
                        raise DataError(
                            "E_TABLE_DAMAGED",
                            f"Expected a value in every row of vector in {file}. Received: {column.null_count} "
                            "empty rows",
                        )
                    yield column.flatten().to_numpy(zero_copy_only=False).reshape(len(batch), kind.list_size)
        except (pa.ArrowException, OSError) as error:
            raise DataError("E_TABLE_DAMAGED", f"Expected a Parquet file at {file}. Received: {error}") from error


def _check_kind(file: Path, kind: "pyarrow.DataType") -> None:
    import pyarrow as pa

    if not pa.types.is_fixed_size_list(kind) or kind.value_type != pa.float32():
        raise DataError(
            "E_TABLE_DAMAGED", f"Expected a fixed-size list of float32 as `vector` in {file}. Received: {kind}"
        )


def _check_columns(path: str | os.PathLike, parts: Sequence["pyarrow.Table"]) -> None:
    names = [part.schema.names for part in parts]
    if any(each != names[0] for each in names):
        raise DataError("E_TABLE_DAMAGED", f"Expected the same columns in all files of {path}. Received: {names}")


def _no_split(path: str | os.PathLike, splits: Sequence[str] | None, present: Sequence[str]) -> DataError:
    return DataError(
        "E_SPLIT_EMPTY",
        f"Expected embeddings of the splits {list(splits or ['any'])} in {path}. Received: none; "
        f"splits in the table: {list(present)}",
    )


def read_columns(file: Path, columns: Iterable[str], further: bool = False) -> "pyarrow.Table":
    """Read columns of a file, with `further` also all other text columns; raise `E_TABLE_DAMAGED` on errors."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        # `parquet.read_table` would add columns for parent folders of the form `name=value`.
        with parquet.ParquetFile(file) as reader:
            absent = sorted(set(columns) - set(reader.schema_arrow.names))
            if absent:
                raise DataError(
                    "E_TABLE_DAMAGED",
                    f"Expected the column {absent[0]} in {file}. Received: {', '.join(reader.schema_arrow.names)}. "
                    "`anchorage embed` writes embedding tables",
                )
            others = [entry.name for entry in reader.schema_arrow if further and entry.type == pa.string()]
            columns = list(dict.fromkeys([*columns, *others]))
            if reader.num_row_groups:
                table = reader.read(columns=columns)
            else:
                table = reader.schema_arrow.empty_table().select(columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError("E_TABLE_DAMAGED", f"Expected a Parquet file at {file}. Received: {error}") from error
    for name in columns:
        if table[name].null_count:
            raise DataError(
                "E_TABLE_DAMAGED",
                f"Expected a value in every row of {name} in {file}. Received: {table[name].null_count} empty rows",
            )
    return table


def _check_ids(path: str | os.PathLike, ids: "pyarrow.ChunkedArray") -> None:
    import pyarrow.compute as pc

    counts = pc.value_counts(ids)
    repeated = pc.struct_field(counts.filter(pc.greater(pc.struct_field(counts, "counts"), 1)), "values").to_pylist()
    if repeated:
        raise DataError(
            "E_ID_DUPLICATE", f"Expected each id once in {path}. Received {len(repeated)} repeated: {repeated[:5]}"
        )


def _write(path: str | os.PathLike, table: "pyarrow.Table") -> None:
    import pyarrow.parquet as parquet

    path = Path(path)
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    try:
        with temporary.open("wb") as writer:
            parquet.write_table(table, writer)
            writer.flush()
            os.fsync(writer.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)
