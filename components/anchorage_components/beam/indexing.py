"""An index of an embedding table, whose shards are each built by a worker of Beam: for any number of rows.

The process that starts them maps the vectors into memory, and holds and tunes the index; the memory that building needs
beside is that of the workers.
"""

import contextlib
import functools
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from anchorage.files import TEMPORARY
from anchorage.progress import advance, task
from anchorage.retrieval.index import Index, check_fresh, load_searcher, save_index
from anchorage.retrieval.index_building import Plan, build_index, build_shard, build_shards
from anchorage.retrieval.sharded import Searcher, shard_folder
from anchorage.retrieval.table import Embeddings, map_gallery, write_ids
from anchorage_components.artifacts import IDS
from anchorage_components.beam.jobs import run_jobs
from anchorage_components.beam.running import STALL_SECONDS

_TASK = "shards of the index"
_SECONDS_PER_ROW = 1e-3  # added to the longest time without a finished shard: ten times what ScaNN takes


class _Shard(NamedTuple):
    """Rows of one shard: its number, the first row and the last one plus 1."""

    number: int
    first: int
    last: int


def index_table(
    table: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    options: PipelineOptions,
    describe: Callable[[Embeddings], tuple[Sequence[str] | None, Mapping[str, Any]]],
    splits: Sequence[str] | None = None,
    **settings: Any,
) -> Index:
    """Build an index of the gallery of an embedding table, and write it to a folder.

    Args:
        table: a Parquet file or a folder of them, see `map_gallery`.
        folder: gets `ids.parquet` and the files of `save_index`; must have no index.
        options: options for Beam, which builds the shards if there are several.
        describe: function of the gallery to the digests of its pixels, or None, and additional facts of the index.
        splits: splits of the gallery; None for all.
        settings: further arguments of `build_index`.

    Raises:
        UsageError: `E_FOLDER_NOT_EMPTY`, and those of `build_index`.
        DataError: as `map_gallery` and `build_index`.
        GateError: as `build_index`.
        ResourceError: `E_BEAM_WORKER`, `E_BEAM_STALLED`.
    """
    folder = Path(folder).absolute()
    check_fresh(folder)
    with _emptied(folder.with_name(f"{TEMPORARY}{folder.name}")) as work:
        file = work / "vectors.npy"
        gallery, queries = map_gallery(table, file, splits)
        with task("building the index"):
            index = build_index(
                gallery.vectors,
                ids=gallery.ids,
                labels=gallery.labels,
                probes=queries if len(queries) else None,
                build=shard_builder(file, options),
                **settings,
            )
        digests, facts = describe(gallery)
        folder.mkdir(exist_ok=True)
        write_ids(folder / IDS, gallery, digests)
        save_index(index, folder, gallery.vectors, **facts)
    return index


def shard_builder(
    file: str | os.PathLike, options: PipelineOptions
) -> Callable[[np.ndarray, int, Plan], list[Searcher]]:
    """Return a function for `build_index` that lets workers build the shards; a single shard needs none.

    A worker maps the vectors from the file, and writes its shard to `shards` beside it, which is temporary.

    Args:
        file: `.npy` file with the vectors of the gallery, at the same path for all workers.
        options: options for Beam.

    Raises:
        ResourceError: by the function, `E_BEAM_WORKER`, `E_BEAM_STALLED`.
    """

    def build(vectors: np.ndarray, neighbors: int, plan: Plan) -> list[Searcher]:
        if plan.shards == 1:
            return build_shards(vectors, neighbors, plan)
        shards = [_Shard(number, *bounds) for number, bounds in enumerate(plan.bounds(len(vectors)))]
        with _emptied(Path(file).with_name("shards")) as folder, task(_TASK, len(shards)):
            run_jobs(
                beam.Pipeline(options=options),
                shards,
                functools.partial(_build_shard, os.fspath(file), str(folder), neighbors, plan),
                _ignore,
                str(folder),
                stall_seconds=STALL_SECONDS + _SECONDS_PER_ROW * len(vectors) / plan.shards,
            )
            return [load_searcher(shard_folder(folder, shard.number)) for shard in shards]

    return build


def _build_shard(file: str, folder: str, neighbors: int, plan: Plan, shard: _Shard) -> None:
    vectors = np.asarray(np.load(file, mmap_mode="r")[shard.first : shard.last])
    searcher = build_shard(vectors, neighbors, plan)
    target = shard_folder(folder, shard.number)
    temporary = target.with_name(f"{TEMPORARY}{target.name}-{secrets.token_hex(4)}")
    temporary.mkdir()
    searcher.serialize(str(temporary), relative_path=True)
    try:
        temporary.rename(target)  # complete at once: an engine may build a shard twice
    except OSError:
        if not target.exists():
            raise
    advance(_TASK)


@contextlib.contextmanager
def _emptied(folder: Path) -> Iterator[Path]:
    """A folder for the time of a build, without what a killed one has left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ignore(results: list) -> None:
    """Ignore the returned values: the results are in the files."""
