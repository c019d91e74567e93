"""Search of a gallery in shards: several searchers of ScaNN that stand where an index has one.

Each shard has consecutive rows of the gallery, and gives its `k` nearest rows; the `k` nearest of these are those of
the whole gallery, as the similarity of two vectors does not depend on other rows. All shards are built and searched
with the same parameters, so that they are tuned together, on the merged results.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Searcher(Protocol):
    """Interface of a searcher: the part of ScaNN's that an index uses."""

    def size(self) -> int:
        """Return the number of rows."""
        ...

    def search_batched(
        self,
        queries: np.ndarray,
        final_num_neighbors: int | None = None,
        pre_reorder_num_neighbors: int | None = None,
        leaves_to_search: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and similarities of each query, nearest first; NaN where the searched leaves have too few."""
        ...

    def serialize(self, path: str, relative_path: bool = False) -> Any:
        """Write the searcher to a folder that exists."""
        ...


class ShardedSearcher:
    """Searches shards in parallel threads, and merges their results.

    Args:
        shards: at least one searcher, in the order of the rows.
    """

    def __init__(self, shards: Sequence[Searcher]):
        self._shards = list(shards)
        self._starts = [0, *accumulate(shard.size() for shard in shards)]
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(min(len(shards), workers), "anchorage-shard")

    def size(self) -> int:
        return self._starts[-1]

    def search_batched(
        self,
        queries: np.ndarray,
        final_num_neighbors: int | None = None,
        pre_reorder_num_neighbors: int | None = None,
        leaves_to_search: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search every shard; equal similarities come in row order, and NaN last."""
        k = final_num_neighbors or 1

        def find(shard: Searcher) -> tuple[np.ndarray, np.ndarray]:
            # ScaNN pads what a shard does not have with row 0.
            return shard.search_batched(queries, min(k, shard.size()), pre_reorder_num_neighbors, leaves_to_search)

        found = list(self._threads.map(find, self._shards))
        rows = np.concatenate(
            [part.astype(np.int64) + start for (part, _), start in zip(found, self._starts[:-1], strict=True)], axis=1
        )
        similarities = np.concatenate([part for _, part in found], axis=1)
        nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(rows, nearest, axis=1), np.take_along_axis(similarities, nearest, axis=1)

    def serialize(self, path: str, relative_path: bool = False) -> None:
        """Write each shard to a folder of its own in `path`."""
        for number, shard in enumerate(self._shards):
            folder = shard_folder(path, number)
            folder.mkdir()
            shard.serialize(str(folder), relative_path=relative_path)


def merge_shards(shards: Sequence[Searcher]) -> Searcher:
    """Return one searcher of the rows of all shards."""
    return shards[0] if len(shards) == 1 else ShardedSearcher(shards)


def shard_folder(folder: str | os.PathLike, number: int) -> Path:
    """Return the folder of a shard."""
    return Path(folder) / f"shard-{number:02}"
