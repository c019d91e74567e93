"""PackExamples: tf.Examples in, a record store of decoded images, or of vectors, per split out."""

import functools
from pathlib import Path

import apache_beam as beam
from absl import logging
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types.artifact_utils import get_split_uri
from tfx.types.standard_artifacts import Examples

from anchorage.data.examples import ExampleShard, list_shards, read_examples
from anchorage.data.packing import decode_records
from anchorage.data.store import RecordSpec, RecordStore, Shard, finish_store, write_shard
from anchorage.disk import check_free_space
from anchorage.errors import DataError, UsageError
from anchorage_components.beam.jobs import run_jobs


@component(use_beam=True)
def PackExamples(
    examples: InputArtifact[Examples],
    store: OutputArtifact[Examples],
    image_size: Parameter[int] = 0,
    fit: Parameter[str] = "crop",
    dimension: Parameter[int] = 0,
    code_version: Parameter[str] = "",
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
):
    """Decodes every image once, so that training reads rows instead of files.

    Each TFRecord file becomes one pixel file, streamed; memory holds one batch of images and
    the index. The output is an Examples artifact only because the stock Trainer and Tuner take no
    other; each `Split-...` folder in it is a `anchorage.data.store.RecordStore`, on a path that can be
    opened as a file.

    Args:
        examples: what ImageExampleGen wrote.
        store: one record store a split.
        image_size: side of the stored images in pixels; 0 for vectors.
        fit: "crop", "pad" or "squash", see `anchorage.data.images.resize_image`.
        dimension: of the vectors; 0 for images.
        code_version: digest of the code; part of the cache key, not used otherwise.
        beam_pipeline: given by TFX.

    Raises:
        DataError: `E_SHARD_TRUNCATED`, `E_SHARD_DAMAGED`, `E_RECORD_INVALID` or a code of `check_image` if
            a record cannot be read, `E_SPLIT_EMPTY` if a split has none.
        ResourceError: `E_DISK_FULL` before anything is written, or while it is.
        UsageError: `E_STORE_PLACE` if the pipeline root is no place for plain files.
    """
    if "://" in store.uri:
        raise UsageError(
            "E_STORE_PLACE", f"Expected a path that is read as a file, such as a mounted one. Received: {store.uri}"
        )
    shards = [
        (split, number, shard)
        for split in examples.splits
        for number, shard in enumerate(list_shards(examples.uri, split))
    ]
    spec = RecordSpec(image_size, fit, dimension)
    folders = {split: get_split_uri([examples], split).replace(examples.uri, store.uri) for split in examples.splits}
    check_free_space(Path(store.uri), sum(shard.records or 0 for _, _, shard in shards) * spec.bytes)
    run_jobs(
        beam_pipeline,
        [(split, number, tuple(shard)) for split, number, shard in shards],
        functools.partial(_pack_shard, examples.uri, folders, spec),
        functools.partial(_finish_stores, folders, spec),
        store.uri,
    )
    for split, folder in folders.items():
        if not len(RecordStore(folder)):
            raise DataError("E_SPLIT_EMPTY", f"The split {split} of {examples.uri} has no images.")
    store.splits = examples.splits
    logging.info("packed %s: %s", examples.splits, spec.to_dict())


def _pack_shard(uri: str, folders: dict[str, str], spec: RecordSpec, job: tuple) -> tuple[str, Shard]:
    split, number, facts = job
    examples = read_examples(uri, ExampleShard(*facts))
    return split, write_shard(folders[split], number, decode_records(examples, spec))


def _finish_stores(folders: dict[str, str], spec: RecordSpec, results: list[tuple[str, Shard]]) -> None:
    for split, folder in folders.items():
        shards = [shard for of, shard in results if of == split]
        finish_store(folder, shards, spec)
