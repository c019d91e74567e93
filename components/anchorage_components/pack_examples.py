"""PackExamples: decodes and packs the images or vectors of tf.Examples into one record store per split."""

import functools
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
from absl import logging
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, InputArtifact, OutputArtifact, Parameter
from tfx.types.artifact_utils import get_split_uri
from tfx.types.standard_artifacts import Examples

from anchorage.data.examples import ExampleShard, list_shards, read_counts, read_examples
from anchorage.data.packing import decode_records
from anchorage.data.store import Record, RecordSpec, RecordStore, Shard, finish_store, write_shard
from anchorage.disk import check_free_space
from anchorage.errors import DataError, UsageError
from anchorage.progress import advance, task
from anchorage_components.beam.jobs import run_jobs
from anchorage_components.nodes import node

_TASK = "packing"


@node(use_beam=True)
def PackExamples(
    examples: InputArtifact[Examples],
    store: OutputArtifact[Examples],
    image_size: Parameter[int] = 0,
    fit: Parameter[str] = "crop",
    code_version: Parameter[str] = "",
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
):
    """Decodes every image once, so that training reads pixels with random access.

    Each TFRecord file becomes one pixel file, written as a stream. The output is an Examples artifact because the stock
    Trainer and Tuner accept no other type; each of its `Split-...` folders is an `anchorage.data.store.RecordStore`,
    which requires a file system path.

    Args:
        examples: output of ImageExampleGen or VectorExampleGen.
        store: output with one record store per split.
        image_size: side of the stored images in pixels; 0 for vectors.
        fit: "crop", "pad" or "squash", see `anchorage.data.images.resize_image`.
        code_version: digest of the code; part of the cache key, otherwise unused.
        beam_pipeline: provided by TFX.

    Raises:
        DataError: `E_SHARD_TRUNCATED`, `E_SHARD_DAMAGED`, `E_RECORD_INVALID` or a code of `check_image` if a record
            cannot be read; `E_SPLIT_EMPTY` if a split has no images.
        ResourceError: `E_DISK_FULL`, before or during writing.
        UsageError: `E_STORE_PLACE` if the pipeline root is not a file system path.
    """
    if "://" in store.uri:
        raise UsageError(
            "E_STORE_PLACE", f"Expected a file system path, such as a mounted volume. Received: {store.uri}"
        )
    shards = [
        (split, number, shard)
        for split in examples.splits
        for number, shard in enumerate(list_shards(examples.uri, split))
    ]
    dimension = (read_counts(examples.uri) or {}).get("dimension", 0)
    spec = RecordSpec(dimension=dimension) if dimension else RecordSpec(image_size, fit)
    folders = {split: get_split_uri([examples], split).replace(examples.uri, store.uri) for split in examples.splits}
    check_free_space(Path(store.uri), sum(shard.records or 0 for _, _, shard in shards) * spec.bytes)
    with task(_TASK, sum(shard.records or 0 for _, _, shard in shards) or None):
        run_jobs(
            beam_pipeline,
            [(split, number, tuple(shard)) for split, number, shard in shards],
            functools.partial(_pack_shard, examples.uri, folders, spec),
            functools.partial(_finish_stores, folders, spec),
            store.uri,
        )
    for split, folder in folders.items():
        if not len(RecordStore(folder)):
            raise DataError("E_SPLIT_EMPTY", f"Expected images in the split {split} of {examples.uri}. Found none.")
    store.splits = examples.splits
    logging.info("packed %s: %s", examples.splits, spec.to_dict())


def _pack_shard(uri: str, folders: dict[str, str], spec: RecordSpec, job: tuple) -> tuple[str, Shard]:
    split, number, facts = job
    examples = read_examples(uri, ExampleShard(*facts))
    return split, write_shard(folders[split], number, _count(decode_records(examples, spec)))


def _count(records: Iterator[Record]) -> Iterator[Record]:
    for record in records:
        advance(_TASK)
        yield record


def _finish_stores(folders: dict[str, str], spec: RecordSpec, results: list[tuple[str, Shard]]) -> None:
    for split, folder in folders.items():
        shards = [shard for shard_split, shard in results if shard_split == split]
        finish_store(folder, shards, spec)
