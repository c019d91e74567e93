"""ImageExampleGen: converts a folder or table of images into validated tf.Examples, split by class."""

import contextlib
import functools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
from absl import logging
from tfx.components.util import examples_utils
from tfx.dsl.component.experimental.annotations import BeamComponentParameter, OutputArtifact, Parameter
from tfx.proto import example_gen_pb2
from tfx.types.standard_artifacts import Examples

from anchorage.data.examples import (
    Example,
    ExampleShard,
    read_counts,
    read_rejects,
    shard_file,
    write_counts,
    write_shard,
)
from anchorage.data.images import ImageFault, decode_checked, hash_pixels, image_notes
from anchorage.data.intake import check_intake, read_file
from anchorage.data.limits import MAX_BYTES, MAX_PIXELS
from anchorage.data.listing import (
    MAX_REJECT_SHARE,
    MAX_REJECTS,
    SPLITS,
    TEST_SHARE,
    VAL_SHARE,
    Listing,
    Reject,
    Source,
    list_images,
)
from anchorage.data.remote import DataPlace, copy_data
from anchorage.disk import check_free_space
from anchorage.progress import advance, task
from anchorage_components.beam.jobs import run_jobs
from anchorage_components.nodes import node
from anchorage_components.parameters import from_parameter

_TASK = "reading images"
_SHARD_IMAGES = 512  # images per TFRecord file; each file is one Beam job


@node(use_beam=True)
def ImageExampleGen(
    examples: OutputArtifact[Examples],
    root: Parameter[str],
    table: Parameter[str] = "",
    columns_json: Parameter[str] = "{}",
    val_share: Parameter[float] = VAL_SHARE,
    test_share: Parameter[float] = TEST_SHARE,
    seed: Parameter[int] = 0,
    own_labels: Parameter[int] = 0,
    max_reject_share: Parameter[float] = MAX_REJECT_SHARE,
    max_rejects: Parameter[int] = MAX_REJECTS,
    max_pixels: Parameter[int] = MAX_PIXELS,
    attributes_json: Parameter[str] = "[]",
    follow_links: Parameter[int] = 0,
    rejects_file: Parameter[str] = "",
    data_version: Parameter[str] = "",
    code_version: Parameter[str] = "",
    beam_pipeline: BeamComponentParameter[beam.Pipeline] = None,
):
    """Lists the images, splits them by class, validates each by decoding it, and writes tf.Examples.

    Records are sorted by id, so the same data gives the same bytes.

    Args:
        examples: output with the splits train, val and test as GZIP TFRecords, `counts.json` (records, hashes, unusual
            images) and `rejects.jsonl` (path, id, code, message, split).
        root: folder, of this machine or an object store, that image paths are relative to.
        table: CSV, TSV or Parquet file that lists the images; "" takes the subfolders of `root` as classes.
        columns_json: JSON object with the table's column names for path, label, split and role, where they differ.
        val_share: share of the classes outside test that becomes val, in [0, 1).
        test_share: share of all classes that becomes test, in [0, 1); ignored if the data defines the split.
        seed: seed of the split.
        own_labels: 1 gives an image without a label a class of its own.
        max_reject_share: share of rejected records in [0, 1) above which the run stops, ...
        max_rejects: ... if their number is also above this one.
        max_pixels: maximum number of pixels of an image.
        attributes_json: JSON list of further columns of the table to keep with each image.
        follow_links: 1 allows symbolic links that lead out of `root`.
        rejects_file: file for the rejected records if there are too many, since TFX deletes the artifact of a failed
            node; "" writes none.
        data_version: digest of the data; part of the cache key, otherwise unused.
        code_version: digest of the code; part of the cache key, otherwise unused.
        beam_pipeline: provided by TFX.

    Raises:
        DataError: `E_TOO_MANY_REJECTS`, `E_SPLIT_EMPTY`, or the errors of `list_images`.
        ResourceError: `E_DISK_FULL`, before or during writing.
    """
    columns = from_parameter(columns_json)
    root, table = copy_data(DataPlace(root, table), columns, is_vectors=False)
    listing = list_images(
        root,
        table,
        columns,
        val_share=val_share,
        test_share=test_share,
        seed=seed,
        attributes=from_parameter(attributes_json),
        follow_links=bool(follow_links),
        own_labels=bool(own_labels),
    )
    check = functools.partial(
        check_intake, listing, max_rejects=max_rejects, max_share=max_reject_share, file=rejects_file
    )
    check(listing.rejects)

    if "://" not in examples.uri:
        check_free_space(Path(examples.uri), _total_size(Path(root), listing.sources))
    with task(_TASK, len(listing.sources)):
        run_jobs(
            beam_pipeline,
            _jobs(listing.sources),
            functools.partial(_write_images, root, examples.uri, max_pixels),
            functools.partial(_write_report, examples.uri, listing._replace(sources=[])),
            examples.uri,
        )
    counts = read_counts(examples.uri) or {}
    rejects = read_rejects(examples.uri)
    kept = Counter({split: facts["records"] for split, facts in counts["splits"].items()})
    check(rejects, kept)

    examples.splits = list(SPLITS)
    examples_utils.set_payload_format(examples, example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE)
    examples_utils.set_file_format(examples, "tfrecords_gzip")
    logging.info("ingested %s; rejected %d; skipped %d other files", dict(kept), len(rejects), listing.skipped)


def _total_size(root: Path, sources: list[Source]) -> int:
    """Total size of the readable images in bytes."""
    total = 0
    for source in sources:
        with contextlib.suppress(OSError):
            total += min((root / source.path).stat().st_size, MAX_BYTES)
    return total


def _jobs(sources: list[Source]) -> list[tuple[str, list[tuple]]]:
    """One job per shard: its path and its sources."""
    jobs = []
    for split in SPLITS:
        members = [tuple(source) for source in sources if source.split == split]
        total = -(-len(members) // _SHARD_IMAGES)
        for number in range(total):
            file = shard_file(split, number, total)
            jobs.append((file, members[number * _SHARD_IMAGES : (number + 1) * _SHARD_IMAGES]))
    return jobs


def _write_images(root: str, uri: str, max_pixels: int, job: tuple[str, list[tuple]]) -> tuple:
    """Validate and write the images of a shard; return the shard, images per class, notes and rejects."""
    file, members = job
    labels: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    rejects: list[tuple] = []

    def good_images() -> Iterator[Example]:
        for source in map(Source._make, members):
            advance(_TASK)
            data, pixels, fault = _read_image(Path(root) / source.path, max_pixels)
            if fault is not None:
                rejects.append((source.path, source.id, *fault, source.split))
                continue
            labels[source.label] += 1
            notes.update(image_notes(data))
            yield Example(source.id, source.label, source.role, data, source.attributes, pixels)

    shard = write_shard(uri, file, good_images())
    return tuple(shard), dict(labels), dict(notes), rejects


def _read_image(path: Path, max_pixels: int) -> tuple[bytes, str, ImageFault | None]:
    """The bytes of an image and the hash of its pixels, or the reason why it is rejected."""
    data, fault = read_file(path)
    if fault is None:
        pixels, fault = decode_checked(data, max_pixels=max_pixels)
        if pixels is not None:
            return data, hash_pixels(pixels), None
    return data, "", fault


def _write_report(uri: str, listing: Listing, results: list[tuple]) -> None:
    """Write `counts.json` and `rejects.jsonl` from the results of the jobs."""
    rejects = list(listing.rejects)
    notes: Counter[str] = Counter()
    for _, _, shard_notes, shard_rejects in results:
        notes.update(shard_notes)
        rejects += map(Reject._make, shard_rejects)
    shards = [(ExampleShard(*fields), labels) for fields, labels, _, _ in results]
    write_counts(uri, shards, rejects, notes=dict(sorted(notes.items())), skipped=listing.skipped)
