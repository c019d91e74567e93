"""An index in shards, each built by one worker of Beam: for a gallery that no machine holds in memory."""

import functools
import os
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow.parquet as parquet

from anchorage.errors import DataError
from anchorage.progress import advance, task
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.index_tuning import IndexLimits
from anchorage.retrieval.sharded import finish_shards, save_shard, shard_folder
from anchorage.retrieval.table import Embeddings, read_columns, read_table, table_files, write_ids
from anchorage_components.beam.jobs import run_jobs
from anchorage_components.beam.options import beam_options
from anchorage_components.beam.running import STALL_SECONDS

_TASK = "shards of the index"
_IDS = "ids.parquet"

# A part of a file: its path, and the first and the last plus one of its gallery rows.
Part = tuple[str, int, int]


def build_shards(
    table: str | os.PathLike,
    folder: str | os.PathLike,
    rows: int,
    *,
    neighbors: int = 10,
    min_recall: float = 0.95,
    seed: int = 0,
    beam_args: Sequence[str] = (),
    stall_seconds: float = STALL_SECONDS,
) -> int:
    """Build an index of consecutive rows of a table per shard, for `anchorage.retrieval.sharded.load_shards`.

    The gallery are the rows with role "gallery" or "both": file after file by name, in each as `read_table` sorts
    them. A shard has its index and `ids.parquet` in the order of its rows.

    Args:
        table: an embedding table; of a folder, each file must fit into the memory of a worker.
        folder: where the shards go; must not have any.
        rows: rows of a shard; the last one has at least half as many, or is the only one.
        neighbors: see `build_index`.
        min_recall: see `build_index`; holds for each shard, so that the merged recall is about as high.
        seed: seed of the probes.
        beam_args: options for Beam.
        stall_seconds: see `run_bounded`.

    Returns:
        Number of shards.

    Raises:
        DataError: `E_INDEX_EMPTY`, and those of reading the table and of `build_index`.
        UsageError: `E_FOLDER_NOT_EMPTY`, `E_BEAM_OPTION`, `E_BEAM_RUNNER`.
        ResourceError: `E_BEAM_WORKER`, `E_BEAM_STALLED`.
    """
    options = beam_options(beam_args)
    files = table_files(Path(table))
    shards = _divide([(str(file), _gallery_rows(file)) for file in files], rows)
    if not shards:
        raise DataError("E_INDEX_EMPTY", f"Expected rows of the gallery in {table}. Received: none")
    fingerprint = (parquet.read_schema(files[0]).metadata or {}).get(b"model_fingerprint", b"").decode()
    with task(_TASK, len(shards)):
        run_jobs(
            beam.Pipeline(options=options),
            list(enumerate(shards)),
            functools.partial(_build_shard, str(folder), neighbors, min_recall, seed),
            functools.partial(_finish, str(folder), fingerprint),
            str(folder),
            stall_seconds=stall_seconds,
        )
    return len(shards)


def _gallery_rows(file: Path) -> int:
    return sum(role != "query" for role in read_columns(file, ("role",))["role"].to_pylist())


def _divide(files: Sequence[tuple[str, int]], rows: int) -> list[list[Part]]:
    """Parts of files for each shard."""
    total = sum(count for _, count in files)
    number = max(1, round(total / rows)) if total else 0
    bounds = [total * place // number for place in range(number + 1)] if number else []
    shards: list[list[Part]] = []
    for low, high in pairwise(bounds):
        parts, start = [], 0
        for file, count in files:
            first, last = max(low, start), min(high, start + count)
            if first < last:
                parts.append((file, first - start, last - start))
            start += count
        shards.append(parts)
    return shards


def _build_shard(folder: str, neighbors: int, min_recall: float, seed: int, job: tuple[int, list[Part]]) -> Any:
    number, parts = job
    shutil.rmtree(shard_folder(folder, number), ignore_errors=True)  # of an attempt that did not end
    gallery = [_read(*part) for part in parts]
    vectors = np.concatenate([part.vectors for part in gallery])
    ids, labels, roles, splits = (
        np.concatenate([getattr(part, name) for part in gallery]) for name in ("ids", "labels", "roles", "splits")
    )
    build = functools.partial(
        build_index, ids=ids, neighbors=neighbors, labels=labels, limits=IndexLimits(min_recall), seed=seed
    )
    facts = save_shard(vectors, folder, number, build)
    write_ids(shard_folder(folder, number) / _IDS, Embeddings(ids, labels, roles, splits, vectors))
    advance(_TASK)
    return number, facts


def _read(file: str, first: int, last: int) -> Embeddings:
    table = read_table(file)
    return table.select(np.flatnonzero(table.roles != "query")[first:last])


def _finish(folder: str, fingerprint: str, results: list) -> None:
    finish_shards(
        folder, [facts for _, facts in sorted(results, key=lambda result: result[0])], model_fingerprint=fingerprint
    )
