"""`anchorage embed`: any number of images or vectors into one embedding table, resumable by shard.

The folder of the table has, while it is made and afterwards:

    inputs/00000.parquet        what to embed, one file per shard
    plan.json                   model, number of inputs and shards; written once the inputs are listed
    vectors-00000.parquet       the embeddings of a shard; it is finished when this file is there
    rejects/00000.jsonl         its dead letters, if there are any
    rejects.jsonl               all dead letters, with those of the listing
    table.json                  written last
"""

import contextlib
import functools
import hashlib
import io
import json
import os
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import apache_beam as beam
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as parquet
from apache_beam.options.pipeline_options import PipelineOptions

from anchorage.data.examples import REJECTS
from anchorage.data.images import ImageFault, check_image
from anchorage.data.inputs import Input, list_inputs
from anchorage.data.intake import read_file
from anchorage.data.limits import MAX_BYTES, MAX_PIXELS
from anchorage.data.listing import Reject
from anchorage.errors import DataError, UsageError
from anchorage.files import TEMPORARY, flush_folder, locked, remove_leftovers
from anchorage.progress import advance, task
from anchorage.release.fingerprint import fingerprint_model
from anchorage.storage import MissingObjectError, is_remote, read_bytes
from anchorage_components.beam import files
from anchorage_components.beam.embedding import (
    EMBEDDING,
    Embedder,
    Item,
    as_json,
    embedding_size,
    format_rejects,
    model_input,
    read_rejects_of_jobs,
)
from anchorage_components.beam.jobs import add_jobs, run_jobs
from anchorage_components.beam.options import beam_options, is_in_process
from anchorage_components.beam.running import STALL_SECONDS

_PLAN, _TABLE, _INPUTS = "plan.json", "table.json", "inputs"
_SHARD = 1024  # inputs per shard, at least
_SHARDS = 65_536  # shards, at most: few enough for one listing of the folder
_READERS = 8  # files read at the same time
_READ_AHEAD = 64  # files that may be read before they are embedded
_FORMAT = 1
_FILE = ".parquet"  # end of the name of a table in one file
_TEXTS = ("path", "id", "label", "role", "split")


class Embedded(NamedTuple):
    """Numbers of embedded and rejected images, and of those of either kind that an interrupted run had done."""

    embedded: int
    rejected: int
    resumed: int = 0


def embed_files(
    images: Sequence[str | os.PathLike],
    model_folder: str | os.PathLike,
    output: str | os.PathLike,
    beam_args: Sequence[str] = (),
    stall_seconds: float = STALL_SECONDS,
) -> Embedded:
    """Embed images or vectors into an embedding table, in their order.

    The id of an image is its given path or URI in NFC, or that in its table; label, role and split are those of a
    table. The metadata of each file has the fingerprint of the model as `model_fingerprint`.

    An interrupted run is resumed by the same call, which embeds only what is missing. It compares the names of the
    images with those of the interrupted run, not their content.

    Args:
        images: see `list_inputs`; for a model of vectors tables of vectors, which are kept in memory.
        model_folder: a release, or any SavedModel with the same signature, at the same path for all workers.
        output: a path that ends in `.parquet` for one file, which is replaced atomically and has its dead letters
            beside it in `<output>.rejects.jsonl`; any other, or the URI of an object store, for a folder of Parquet
            files. The workers write to the folder, or to `<output>.shards`.
        beam_args: options for Beam, such as `--runner=...`; empty runs one worker in this process.
        stall_seconds: the longest time without a finished shard, if the workers are other processes.

    Raises:
        UsageError: `E_IMAGE_MISSING`, `E_BEAM_OPTION`, `E_BEAM_RUNNER`; `E_ADDRESS` for one file in an object store;
            `E_OUTPUT_EXISTS` if the folder belongs to other images or to another model.
        DataError: `E_NO_IMAGES` if there are no images or all are rejected, `E_MODEL_SIGNATURE`, and the errors of
            reading a table.
        ResourceError: `E_BEAM_WORKER`, `E_BEAM_STALLED`, `E_DISK_FULL`.
    """
    output, model_folder = os.fspath(output), str(model_folder)
    options = beam_options(beam_args)
    if is_remote(output) and output.endswith(_FILE):
        raise UsageError(
            "E_ADDRESS", f"Expected a folder as the output in an object store. Received: one file, {output}"
        )
    sources, rejects = list_inputs(images, vectors=model_input(model_folder)[0] == "vectors")
    embedder = Embedder(model_folder, fingerprint_model(model_folder))
    folder = f"{output}.shards" if output.endswith(_FILE) else output
    with _locked(folder):
        shards = _plan(folder, sources, embedder.fingerprint)
        pending = _unfinished(folder, shards)
        resumed = len(sources) - sum(shards[shard] for shard in pending)
        with task(EMBEDDING, len(sources), resumed):
            if pending:
                _embed(pending, shards, embedder, folder, options, stall_seconds)
        bad = read_rejects_of_jobs(folder)
        rejects, embedded = sorted([*rejects, *bad]), len(sources) - len(bad)
        _write_rejects(rejects_file(output), rejects)
        if not embedded:
            files.remove_folder(folder)
            raise DataError(
                "E_NO_IMAGES",
                f"Expected at least one valid image in {', '.join(map(str, images))}. "
                f"Received: {format_rejects(rejects)}",
            )
        if folder != output:
            _join([_vectors(folder, shard) for shard in shards], Path(output), embedded)
            files.remove_folder(folder)
        else:
            facts = {"model_fingerprint": embedder.fingerprint, "dimension": embedding_size(model_folder)}
            facts |= {"rows": embedded, "rejects": len(rejects), "shards": len(shards)}
            files.write(posixpath.join(folder, _TABLE), json.dumps(facts, indent=1, sort_keys=True).encode())
    return Embedded(embedded, len(rejects), resumed)


def rejects_file(output: str) -> str:
    """Path of the dead letters of a table."""
    return f"{output}.{REJECTS}" if output.endswith(_FILE) else posixpath.join(output, REJECTS)


def embedding_pipeline(beam_args: Sequence[str], model_folder: str, folder: str, shards: int) -> beam.Pipeline:
    """The pipeline that `embed_files` runs for a number of shards, built but not run."""
    pipeline = beam.Pipeline(options=beam_options(beam_args))
    embedder = Embedder(model_folder, fingerprint="")
    add_jobs(pipeline, range(shards), functools.partial(_embed_shard, embedder, folder), _ignore, folder)
    return pipeline


def _embed(
    pending: list[int],
    shards: dict[int, int],
    embedder: Embedder,
    folder: str,
    options: PipelineOptions,
    stall_seconds: float,
) -> None:
    waiting = set(pending)

    def look() -> int:
        """Count the finished shards, and report those of other processes; this process reports its own batches."""
        for shard in waiting.difference(_unfinished(folder, waiting)):
            waiting.remove(shard)
            advance(EMBEDDING, shards[shard])
        return len(waiting)

    run_jobs(
        beam.Pipeline(options=options),
        pending,
        functools.partial(_embed_shard, embedder, folder),
        _ignore,
        folder,
        None if is_in_process(options) else look,
        stall_seconds,
    )


def _ignore(results: list) -> None:
    """Ignore the returned values: the results are in the files."""


def _embed_shard(embedder: Embedder, folder: str, shard: int) -> None:
    table = parquet.read_table(io.BytesIO(files.read(_inputs(folder, shard))))
    inputs = [Input(**row) for row in table.to_pylist()]
    embedder.write(_read(inputs), folder, f"vectors-{shard:05}")


def _read(inputs: Sequence[Input]) -> Iterator[Item | Reject]:
    with ThreadPoolExecutor(_READERS) as threads:
        for start in range(0, len(inputs), _READ_AHEAD):
            yield from threads.map(_read_input, inputs[start : start + _READ_AHEAD])


def _read_input(source: Input) -> Item | Reject:
    """Read an image; one that may be too large for memory is checked before the model decodes it."""
    if source.vector is not None:
        return Item(*source[:5], np.asarray(source.vector, np.float32))
    data, fault = _read_uri(source.path) if is_remote(source.path) else read_file(Path(source.path))
    if fault is None and _may_be_oversized(data):
        fault = check_image(data)
    return Reject(source.path, source.id, *fault, source.split) if fault else Item(*source[:5], data)


def _read_uri(uri: str) -> tuple[bytes, ImageFault | None]:
    """As `read_file`; an error of the network is raised, so that the command can be run again."""
    try:
        return read_bytes(uri, MAX_BYTES + 1), None
    except MissingObjectError:
        return b"", ImageFault("E_IMAGE_MISSING", "there is no such file")


def _may_be_oversized(data: bytes) -> bool:
    """Whether the header does not rule out an oversized image; a full check would decode every image twice."""
    try:
        with PIL.Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "GIF", "BMP", "WEBP")) as image:
            return image.format == "GIF" or image.width * image.height > MAX_PIXELS  # all frames of a GIF count
    except Exception:  # Pillow's parsers raise many kinds of errors
        return True


def _plan(folder: str, sources: Sequence[Input], fingerprint: str) -> dict[int, int]:
    """Write the inputs of each shard and the plan, or check that they are those of the interrupted run.

    Returns:
        Number of inputs of each shard.
    """
    size = max(_SHARD, -(-len(sources) // _SHARDS))
    starts = range(0, len(sources), size)
    digest = hashlib.sha256()
    for source in sources:
        vector = b"" if source.vector is None else source.vector.tobytes()
        digest.update(repr(source[:5]).encode() + vector)
    plan = {"format": _FORMAT, "model_fingerprint": fingerprint, "inputs": len(sources), "digest": digest.hexdigest()}
    plan |= {"shard": size}
    path = posixpath.join(folder, _PLAN)
    shards = {number: min(size, len(sources) - start) for number, start in enumerate(starts)}
    if files.exists(path):
        before = json.loads(files.read(path))
        if different := [name for name in plan if plan[name] != before.get(name)]:
            raise UsageError(
                "E_OUTPUT_EXISTS",
                f"Expected the same images and model as in {folder}, to resume. Received: `{different[0]}` of "
                f"{plan[different[0]]} instead of {before.get(different[0])}. Remove the folder, or choose another",
            )
        return shards
    if strangers := [name for name in files.list_folder(folder) if name.split("/")[0] not in {_INPUTS, ".lock"}]:
        raise UsageError(
            "E_OUTPUT_EXISTS", f"Expected an empty folder, or one to resume, at {folder}. Received: {strangers[0]}"
        )
    for number, start in enumerate(starts):
        files.write(_inputs(folder, number), _encode_inputs(sources[start : start + size]))
    files.write(path, json.dumps(plan, indent=1).encode())
    return shards


def _encode_inputs(sources: Sequence[Input]) -> bytes:
    columns = {name: pa.array([getattr(source, name) for source in sources], pa.string()) for name in _TEXTS}
    if sources[0].vector is not None:
        columns["vector"] = pa.array([source.vector for source in sources], pa.list_(pa.float32()))
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def _join(files: Sequence[str], output: Path, rows: int) -> None:
    """Write the rows of all files into one, which appears at once."""
    temporary = output.with_name(f"{TEMPORARY}{output.name}")
    try:
        with temporary.open("wb") as target:
            with parquet.ParquetWriter(target, parquet.read_schema(files[0])) as writer:
                written = 0
                for file in files:
                    with parquet.ParquetFile(file) as reader:
                        if reader.metadata.num_rows:
                            writer.write_table(reader.read())
                        written += reader.metadata.num_rows
            target.flush()
            os.fsync(target.fileno())
        if written != rows:
            raise DataError(
                "E_EMBEDDINGS_INCOMPLETE",
                f"Expected {rows} embeddings in the shards of {output}. Received: {written}. Remove {output}.shards "
                "and run the same command again",
            )
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(output.parent)


def _write_rejects(path: str, rejects: Sequence[Reject]) -> None:
    if rejects:
        files.write(path, "".join(f"{as_json(reject)}\n" for reject in rejects).encode())
    else:
        files.remove(path)


def _locked(folder: str) -> contextlib.AbstractContextManager:
    """Make and lock a local folder, and remove what killed workers left; an object store has neither folders nor locks.

    Two runs of the same command in an object store write the same objects.
    """
    return contextlib.nullcontext() if is_remote(folder) else _locked_folder(Path(folder))


@contextlib.contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        remove_leftovers(folder)
        yield


def _inputs(folder: str, shard: int) -> str:
    return posixpath.join(folder, _INPUTS, f"{shard:05}.parquet")


def _vectors(folder: str, shard: int) -> str:
    return posixpath.join(folder, f"vectors-{shard:05}.parquet")


def _unfinished(folder: str, shards: Iterable[int]) -> list[int]:
    there = set(files.list_folder(folder))
    return [shard for shard in shards if _vectors("", shard) not in there]
