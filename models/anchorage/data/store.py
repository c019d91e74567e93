"""The packed record store: decoded images or vectors of a split in raw files, with an index grouped by class.

The folder of a split has

    index.parquet     id, label, role, shard, row; sorted by (label, id)
    shard-00000.u8    uint8 images `(S, S, 3)` in the order of arrival; `.f32` for float32 vectors `(D,)`
    store.json        format, image size and fit or dimension, counts, and the SHA-256 of the index and of each shard

`store.json` is written last: a folder without it is unfinished. Opening a store verifies all hashes, once per process.
Rows are read by `preadv`: access is random, only the requested rows are in memory, and a truncated file raises an
error, where a memory map would kill the process. Vectors of up to 2 GiB are kept in memory once they are read, since a
call of the system for each would take longer than a training step.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from anchorage.errors import DataError
from anchorage.files import hash_file

if TYPE_CHECKING:
    import pyarrow

FORMAT = 2
ROLES = ("query", "gallery", "both")

_INDEX = "index.parquet"
_FACTS = "store.json"
_IN_MEMORY = 2 << 30  # bytes of vectors

# Hash of each file that this process has verified, by path, size, modification time and inode.
_verified: dict[tuple[str, int, int, int], str] = {}


class RecordSpec(NamedTuple):
    """Shape and type of the records of a store: images of side `image_size`, or vectors of size `dimension`.

    `fit` is how images were resized, see `anchorage.data.images.resize_image`.
    """

    image_size: int = 0
    fit: str = "crop"
    dimension: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """`(S, S, 3)` or `(D,)`."""
        return (self.dimension,) if self.dimension else (self.image_size, self.image_size, 3)

    @property
    def dtype(self) -> str:
        """Data type in the store and of the encoder's input."""
        return "float32" if self.dimension else "uint8"

    @property
    def bytes(self) -> int:
        """Size of a record in bytes."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def to_dict(self) -> dict[str, int | str]:
        """Return the values that are written to files: those of images, or those of vectors."""
        return {"dimension": self.dimension} if self.dimension else {"image_size": self.image_size, "fit": self.fit}


class Record(NamedTuple):
    """An image `(S, S, 3)` uint8, or a vector `(D,)` float32, to be written to a store."""

    id: str
    label: str
    role: str
    content: np.ndarray


class Shard(NamedTuple):
    """A written file of records: its number, its rows of the index, and its SHA-256."""

    number: int
    index: "pyarrow.Table"
    sha256: str


class RecordStore:
    """Random access to the packed images or vectors of a split.

    Args:
        folder: folder written by `finish_store`.

    Attributes:
        ids: `(M,)` object array of str, unique.
        labels: `(M,)` int32 class numbers, dense from 0 in the order of `class_names`; ascending.
        class_names: sorted class names.
        roles: `(M,)` object array of "query", "gallery" or "both".
        spec: shape and type of the records.

    Raises:
        DataError: `E_STORE_MISSING` if there is no finished store in `folder`,
            `E_STORE_DAMAGED` if its files are inconsistent.
    """

    def __init__(self, folder: str | os.PathLike):
        import pyarrow.parquet as parquet

        self.folder = Path(folder)
        facts = _read_facts(self.folder)
        self.spec = RecordSpec(**{name: facts[name] for name in RecordSpec._fields if name in facts})
        try:
            _check_hash(self.folder / _INDEX, facts["index"])
            index = parquet.read_table(self.folder / _INDEX)
            names = index["label"].combine_chunks().dictionary_encode()
            self.ids = index["id"].to_numpy()
            self.roles = index["role"].to_numpy()
            self._shards = index["shard"].to_numpy()
            self._rows = index["row"].to_numpy()
        except (OSError, ValueError, KeyError) as error:
            raise DataError("E_STORE_DAMAGED", f"{self.folder / _INDEX} cannot be read: {error}") from error
        self.labels = names.indices.to_numpy(zero_copy_only=False).astype(np.int32)
        self.class_names: list[str] = names.dictionary.to_pylist()
        self._check(facts)
        self._files: dict[int, int] = {}
        self._vectors: np.ndarray | None = None  # all of them, if they are kept in memory

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def digest(self) -> str:
        """SHA-256 of the index and `store.json`, which contains the hash of every shard."""
        digest = hashlib.sha256()
        for name in (_INDEX, _FACTS):
            digest.update((self.folder / name).read_bytes())
        return digest.hexdigest()

    def read(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read the records of `rows` (n,), in this order: images `(n, S, S, 3)` uint8, or vectors `(n, D)` float32.

        Raises:
            IndexError: if a row is negative or past the end.
            DataError: `E_STORE_DAMAGED` if a shard is truncated.
        """
        rows = np.asarray(rows, np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"Expected rows in [0, {len(self)}). Received: {rows.min()} to {rows.max()}")
        if self.spec.dimension and len(self) * self.spec.bytes <= _IN_MEMORY:
            if self._vectors is None:
                self._vectors = self._read_all()
            return self._vectors[rows]
        return self._read_each(rows)

    def _read_all(self) -> np.ndarray:
        """All vectors in the order of the index, read shard by shard."""
        vectors = np.empty((len(self), *self.spec.shape), self.spec.dtype)
        for shard in np.unique(self._shards).tolist():
            of_shard = np.flatnonzero(self._shards == shard)
            content = np.fromfile(self._path(shard), self.spec.dtype)
            whole = content.size // self.spec.dimension
            if whole <= self._rows[of_shard].max():
                raise DataError("E_STORE_DAMAGED", f"{self._path(shard)} ends inside row {whole}.")
            vectors[of_shard] = content[: whole * self.spec.dimension].reshape(whole, -1)[self._rows[of_shard]]
        return vectors

    def _read_each(self, rows: np.ndarray) -> np.ndarray:
        records = np.empty((len(rows), *self.spec.shape), self.spec.dtype)
        for record, shard, row in zip(records, self._shards[rows].tolist(), self._rows[rows].tolist(), strict=True):
            count = os.preadv(self._file(shard), [record.data], row * self.spec.bytes)
            if count != self.spec.bytes:
                raise DataError("E_STORE_DAMAGED", f"{self._path(shard)} ends inside row {row}.")
        return records

    def _path(self, shard: int) -> Path:
        return self.folder / shard_name(shard, self.spec.dtype)

    def _file(self, shard: int) -> int:
        if shard not in self._files:
            descriptor = os.open(self._path(shard), os.O_RDONLY | os.O_CLOEXEC)
            if self._files.setdefault(shard, descriptor) != descriptor:  # another thread opened it first
                os.close(descriptor)
        return self._files[shard]

    def _check(self, facts: dict) -> None:
        if len(self) != facts["count"] or len(self.class_names) != facts["classes"]:
            raise DataError(
                "E_STORE_DAMAGED",
                f"{self.folder}: expected {facts['count']} records of {facts['classes']} classes by {_FACTS}. "
                f"Received: {len(self)} of {len(self.class_names)} in {_INDEX}.",
            )
        for number, shard in enumerate(facts["shards"]):
            path, expected = self._path(number), shard["rows"] * self.spec.bytes
            size = path.stat().st_size if path.exists() else "no file"
            if size != expected:
                raise DataError("E_STORE_DAMAGED", f"{path}: expected {expected} bytes. Received: {size}")
            _check_hash(path, shard.get("sha256", "none"))
        rows = np.array([shard["rows"] for shard in facts["shards"]], np.int64)
        if len(self) and not ((self._shards < len(rows)).all() and (self._rows < rows[self._shards]).all()):
            raise DataError("E_STORE_DAMAGED", f"{self.folder / _INDEX} points past the end of a shard.")

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_files": {}, "_vectors": None}  # file descriptors cannot be pickled

    def __del__(self):
        for descriptor in getattr(self, "_files", {}).values():
            os.close(descriptor)


def content_digest(content: np.ndarray) -> str:
    """Return the SHA-256, in hex, of a packed record, which is equal for identical inputs of an encoder."""
    return hashlib.sha256(np.ascontiguousarray(content).data).hexdigest()


def shard_name(number: int, dtype: str = "uint8") -> str:
    """Return the name of the file with this number, of images or of vectors."""
    return f"shard-{number:05d}.{'u8' if dtype == 'uint8' else 'f32'}"


def write_shard(folder: str | os.PathLike, number: int, records: Iterable[Record]) -> Shard:
    """Write a file of records atomically, and return its part of the index.

    Args:
        folder: folder of the store, created if missing.
        number: number of the shard; the shards of a store are numbered from 0 without gaps.
        records: images of one size or vectors of one dimension, streamed.

    Raises:
        ValueError: if a record is neither `(S, S, 3)` uint8 nor `(D,)` float32, or its shape differs from the first.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{shard_name(number)}.{os.getpid()}.part"
    name = shard_name(number)
    digest = hashlib.sha256()
    rows: list[tuple[str, str, str, int, int]] = []
    try:
        with part.open("wb") as file:
            for record in _checked(records):
                content = np.ascontiguousarray(record.content)
                name = shard_name(number, content.dtype.name)
                file.write(content.data)
                digest.update(content.data)
                rows.append((record.id, record.label, record.role, number, len(rows)))
        part.replace(folder / name)
    finally:
        part.unlink(missing_ok=True)
    return Shard(number, _index_table(rows), digest.hexdigest())


def finish_store(folder: str | os.PathLike, shards: Iterable[Shard], spec: RecordSpec) -> None:
    """Write the index of all shards, grouped by class, and then `store.json`.

    Raises:
        ValueError: if the shards are not numbered from 0 without gaps.
        DataError: `E_ID_DUPLICATE` if two records have the same id.
    """
    import pyarrow as pa
    import pyarrow.compute as compute
    import pyarrow.parquet as parquet

    folder = Path(folder)
    shards = sorted(shards, key=lambda shard: shard.number)
    if [shard.number for shard in shards] != list(range(len(shards))):
        raise ValueError(f"Expected shards numbered from 0. Received: {[shard.number for shard in shards]}")
    index = pa.concat_tables([_index_table([]), *(shard.index for shard in shards)])
    index = index.sort_by([("label", "ascending"), ("id", "ascending")]).combine_chunks()
    counts = compute.value_counts(index["id"])
    repeated = counts.filter(compute.greater(counts.field("counts"), 1)).field("values").to_pylist()
    if repeated:
        raise DataError("E_ID_DUPLICATE", f"{len(repeated)} ids stand for several records, first: {repeated[0]!r}")
    parquet.write_table(index, folder / _INDEX)
    facts = {
        "format": FORMAT,
        **spec.to_dict(),
        "count": index.num_rows,
        "classes": compute.count_distinct(index["label"]).as_py(),
        "index": hash_file(folder / _INDEX),
        "shards": [{"rows": shard.index.num_rows, "sha256": shard.sha256} for shard in shards],
    }
    part = folder / f".{_FACTS}.part"
    part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    part.replace(folder / _FACTS)


def write_store(folder: str | os.PathLike, records: Iterable[Record], spec: RecordSpec) -> None:
    """Write a store with a single shard."""
    finish_store(folder, [write_shard(folder, 0, records)], spec)


def _check_hash(path: Path, expected: str) -> None:
    """Verify the hash of a file, unless this process has already verified it."""
    state = path.stat()
    seen = (str(path), state.st_size, state.st_mtime_ns, state.st_ino)
    if _verified.get(seen) != expected:
        digest = hash_file(path)
        if digest != expected:
            raise DataError(
                "E_STORE_DAMAGED",
                f"{path} was changed after packing: expected SHA-256 {expected}. Received: {digest}",
            )
        _verified[seen] = expected


def _checked(records: Iterable[Record]) -> Iterator[Record]:
    first = None
    for record in records:
        content = record.content
        kind = first = first or (content.dtype, content.shape)
        is_image = content.dtype == np.uint8 and kind[1] == (kind[1][0], kind[1][0], 3)
        if (content.dtype, content.shape) != kind or not (is_image or (content.dtype, content.ndim) == (np.float32, 1)):
            raise ValueError(
                "Expected uint8 images of one shape (S, S, 3), or float32 vectors of one shape (D,). "
                f"Received: {content.dtype} {content.shape} for {record.id!r}"
            )
        if record.role not in ROLES:
            raise ValueError(f"`role` must be one of {', '.join(ROLES)}. Received: {record.role!r} for {record.id!r}")
        yield record


def _index_table(rows: list[tuple[str, str, str, int, int]]) -> "pyarrow.Table":
    import pyarrow as pa

    types = {"id": pa.string(), "label": pa.string(), "role": pa.string(), "shard": pa.int32(), "row": pa.int64()}
    columns = list(zip(*rows, strict=True)) or [()] * len(types)
    arrays = {name: pa.array(column, kind) for column, (name, kind) in zip(columns, types.items(), strict=True)}
    return pa.table(arrays)


def _read_facts(folder: Path) -> dict:
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            "E_STORE_MISSING",
            f"Expected a packed record store in {folder}. Received: no {_FACTS}.",
        ) from None
    except ValueError as error:
        raise DataError("E_STORE_DAMAGED", f"{folder / _FACTS} is not valid JSON: {error}") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise DataError("E_STORE_DAMAGED", f"{folder / _FACTS}: expected format {FORMAT}. Received: {facts!s:.200}")
    missing = {"count", "classes", "index", "shards"} - set(facts)
    if "dimension" not in facts:
        missing |= {"image_size", "fit"} - set(facts)
    if missing:
        raise DataError("E_STORE_DAMAGED", f"{folder / _FACTS} lacks {', '.join(sorted(missing))}.")
    return facts
