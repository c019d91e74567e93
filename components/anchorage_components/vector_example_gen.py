"""VectorExampleGen: converts a table of vectors into validated tf.Examples, split by class."""

import functools
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from absl import logging
from tfx.components.util import examples_utils
from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.proto import example_gen_pb2
from tfx.types.standard_artifacts import Examples

from anchorage.data.examples import Example, ExampleShard, shard_file, write_counts, write_shard
from anchorage.data.intake import check_intake
from anchorage.data.listing import MAX_REJECT_SHARE, MAX_REJECTS, SPLITS, TEST_SHARE, VAL_SHARE, Reject, Source
from anchorage.data.remote import copy_data
from anchorage.data.spans import split_path
from anchorage.data.vectors import VectorTable, list_vectors, read_vectors
from anchorage.disk import check_free_space
from anchorage_components.nodes import node
from anchorage_components.parameters import from_parameter

_SHARD_VECTORS = 16_384  # vectors per TFRecord file


@node
def VectorExampleGen(
    examples: OutputArtifact[Examples],
    table: Parameter[str],
    columns_json: Parameter[str] = "{}",
    val_share: Parameter[float] = VAL_SHARE,
    test_share: Parameter[float] = TEST_SHARE,
    seed: Parameter[int] = 0,
    own_labels: Parameter[int] = 0,
    max_reject_share: Parameter[float] = MAX_REJECT_SHARE,
    max_rejects: Parameter[int] = MAX_REJECTS,
    attributes_json: Parameter[str] = "[]",
    rejects_file: Parameter[str] = "",
    data_version: Parameter[str] = "",
    code_version: Parameter[str] = "",
):
    """Lists the rows of a table, splits them by class, validates every vector, and writes tf.Examples.

    The table is read in batches, once for the listing and once per split.

    Args:
        examples: output with the splits train, val and test as GZIP TFRecords, `counts.json` and `rejects.jsonl`, as in
            ImageExampleGen.
        table: a `.parquet` or `.npy` file or a folder of Arrow files, see `anchorage.data.vectors`; or its URI in an
            object store.
        columns_json: JSON object with the table's column names for vector, id, path, label, split and role, where they
            differ.
        val_share: share of the classes outside test that becomes val, in [0, 1).
        test_share: share of all classes that becomes test, in [0, 1); ignored if the table defines the split.
        seed: seed of the split.
        own_labels: 1 gives a vector without a label a class of its own.
        max_reject_share: share of rejected rows in [0, 1) above which the run stops, ...
        max_rejects: ... if their number is also above this one.
        attributes_json: JSON list of further columns of the table to keep with each vector, besides the path of its
            picture.
        rejects_file: file for the rejected rows if there are too many, since TFX deletes the artifact of a failed node;
            "" writes none.
        data_version: digest of the data; part of the cache key, otherwise unused.
        code_version: digest of the code; part of the cache key, otherwise unused.

    Raises:
        DataError: `E_TOO_MANY_REJECTS`, `E_SPLIT_EMPTY`, or the errors of `VectorTable`.
        ResourceError: `E_DISK_FULL` before anything is written.
    """
    columns = from_parameter(columns_json)
    place = copy_data(split_path(table, is_vectors=True), columns, is_vectors=True)
    vectors = VectorTable(place.table, columns, from_parameter(attributes_json))
    listing = list_vectors(vectors, val_share=val_share, test_share=test_share, seed=seed, own_labels=bool(own_labels))
    check = functools.partial(
        check_intake, listing, max_rejects=max_rejects, max_share=max_reject_share, file=rejects_file
    )
    check(listing.rejects)
    if "://" not in examples.uri:
        check_free_space(Path(examples.uri), len(listing.sources) * vectors.dimension * 4)

    rejects, shards = list(listing.rejects), []
    for split in SPLITS:
        members = [source for source in listing.sources if source.split == split]
        shards += _write_split(examples.uri, split, vectors, members, rejects)
    write_counts(examples.uri, shards, rejects, dimension=vectors.dimension, has_paths=vectors.has_paths)
    kept: Counter[str] = Counter()
    for shard, _ in shards:
        kept[shard.file.split("/")[0].removeprefix("Split-")] += shard.records or 0
    check(rejects, kept)

    examples.splits = list(SPLITS)
    examples_utils.set_payload_format(examples, example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE)
    examples_utils.set_file_format(examples, "tfrecords_gzip")
    logging.info("ingested %s vectors of dimension %d; rejected %d", dict(kept), vectors.dimension, len(rejects))


def _write_split(
    uri: str, split: str, table: VectorTable, members: list[Source], rejects: list[Reject]
) -> list[tuple[ExampleShard, set[str]]]:
    """Write the vectors of a split; return its shards with their labels, and append bad rows to `rejects`."""

    def good_rows() -> Iterator[Example]:
        for row in read_vectors(table, members):
            if isinstance(row, Reject):
                rejects.append(row)
            else:
                source = row.source
                yield Example(source.id, source.label, source.role, row.values, source.attributes)

    rows, shards = good_rows(), []
    total = -(-len(members) // _SHARD_VECTORS)
    for number in range(total):
        labels: set[str] = set()
        part = _collect_labels(itertools.islice(rows, _SHARD_VECTORS), labels)
        shards.append((write_shard(uri, shard_file(split, number, total), part), labels))
    return shards


def _collect_labels(examples: Iterator[Example], labels: set[str]) -> Iterator[Example]:
    """Yield the examples, and add their labels to `labels`."""
    for example in examples:
        labels.add(example.label)
        yield example
