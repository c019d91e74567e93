"""Search of a gallery in shards, for one that is larger than the memory of a machine.

Each shard is an index of its own over consecutive rows. It gives its `k` nearest rows; the `k` nearest of these are
those of the whole gallery, as the similarity of two vectors does not depend on other rows.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from anchorage.errors import DataError, UsageError
from anchorage.files import replace_file
from anchorage.retrieval.index import Index, check_queries, load_index, save_index, search
from anchorage.retrieval.index_building import build_index

FORMAT = 1


class Shard(Protocol):
    """One part of a gallery, in this process or on another machine."""

    rows: int
    dimension: int

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows, counted from 0 within the shard, and similarities, each `(N, min(k, rows))`."""
        ...


class LocalShard:
    """An index in the memory of this process.

    Args:
        index: from `build_index` or `load_index`.
    """

    def __init__(self, index: Index):
        self.rows, self.dimension = index.rows, index.dimension
        self._index = index

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        return search(self._index, queries, k)


class ShardedIndex:
    """Searches shards in parallel, and merges their results.

    Args:
        shards: parts of the gallery, in the order of its rows.

    Raises:
        DataError: `E_INDEX_EMPTY` without shards, `E_RELEASE_MIXED` if their dimensions differ.
    """

    def __init__(self, shards: Sequence[Shard]):
        if not shards:
            raise DataError("E_INDEX_EMPTY", "Expected at least one shard. Received: none")
        dimensions = sorted({shard.dimension for shard in shards})
        if len(dimensions) > 1:
            raise DataError("E_RELEASE_MIXED", f"Expected shards of one dimension. Received: {dimensions}")
        self._shards = list(shards)
        self._starts = [0, *accumulate(shard.rows for shard in shards)]
        self._threads = ThreadPoolExecutor(len(shards), "anchorage-shard")

    @property
    def rows(self) -> int:
        return self._starts[-1]

    @property
    def dimension(self) -> int:
        return self._shards[0].dimension

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Search for the approximate `k` nearest rows of each query; as `index.search`, ties in row order.

        Args:
            queries: `(N, D)` floats, rows of unit length.
            k: number of neighbors; at most the number of rows are returned.

        Returns:
            Rows of the whole gallery `(N, min(k, rows))` int64 and their similarities, nearest first.

        Raises:
            DataError: `E_QUERY_SHAPE`, `E_VECTOR_NOT_FINITE`.
            UsageError: `E_NEIGHBORS` if `k < 1`.
        """
        queries = check_queries(queries, self.dimension)
        if k < 1:
            raise UsageError("E_NEIGHBORS", f"Expected `k` of at least 1. Received: k={k}")
        found = list(self._threads.map(lambda shard: shard.search(queries, k), self._shards))
        rows = np.concatenate([part + start for (part, _), start in zip(found, self._starts[:-1], strict=True)], axis=1)
        similarities = np.concatenate([part for _, part in found], axis=1)
        nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(rows, nearest, axis=1), np.take_along_axis(similarities, nearest, axis=1)


def save_shards(
    parts: Iterable[np.ndarray],
    folder: str | os.PathLike,
    build: Callable[[np.ndarray], Index] = build_index,
    **facts: Any,
) -> None:
    """Build an index of each part and save it to `shard-00`, `shard-01`, ..., with `index.json` beside them at last.

    Args:
        parts: `(m, D)` float32 vectors of each shard, in the order of the rows; only one is in memory at a time.
        folder: created if missing.
        build: builds the index of one part.
        facts: additional JSON values for `index.json`, such as `model_fingerprint`.

    Raises:
        DataError, UsageError, GateError: as `build_index` and `save_index`.
    """
    shards = [save_shard(vectors, folder, number, build) for number, vectors in enumerate(parts)]
    finish_shards(folder, shards, **facts)


def save_shard(
    vectors: np.ndarray, folder: str | os.PathLike, number: int, build: Callable[[np.ndarray], Index] = build_index
) -> dict[str, Any]:
    """Build and save one shard of `save_shards`, as a worker does; return what `finish_shards` needs of it."""
    index = build(vectors)
    save_index(index, shard_folder(folder, number), vectors)
    return {"rows": index.rows, "dimension": index.dimension, "recall": index.facts["recall"]}


def finish_shards(folder: str | os.PathLike, shards: Sequence[dict[str, Any]], **facts: Any) -> None:
    """Write `index.json` of an index whose shards are saved, in their order."""
    content = {
        "format": FORMAT,
        "kind": "sharded",
        "rows": sum(shard["rows"] for shard in shards),
        "shards": list(shards),
        **facts,
    }
    replace_file(Path(folder) / "index.json", json.dumps(content, indent=1, sort_keys=True).encode())


def shard_folder(folder: str | os.PathLike, number: int) -> Path:
    """Folder of a shard."""
    return Path(folder) / f"shard-{number:02}"


def load_shards(folder: str | os.PathLike, dimension: int | None = None) -> ShardedIndex:
    """Load all shards that `save_shards` wrote into the memory of this process.

    A process that serves one shard for others loads its folder with `load_index`.

    Raises:
        DataError: `E_INDEX_MISSING`, `E_INDEX_DAMAGED`, `E_QUERY_SHAPE`, as `load_index`.
    """
    folder = Path(folder)
    try:
        facts = json.loads((folder / "index.json").read_bytes())
        expected = [shard["rows"] for shard in facts["shards"]]
    except FileNotFoundError as error:
        raise DataError("E_INDEX_MISSING", f"Expected index.json in {folder}. Received: no such file") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("E_INDEX_DAMAGED", f"Expected an index of shards in {folder}. Received: {error!r}") from error
    indexes = [load_index(shard_folder(folder, number), dimension) for number in range(len(expected))]
    if expected != [index.rows for index in indexes]:
        rows = [index.rows for index in indexes]
        raise DataError("E_INDEX_DAMAGED", f"Expected shards of {expected} rows in {folder}. Received: {rows}")
    return ShardedIndex([LocalShard(index) for index in indexes])
