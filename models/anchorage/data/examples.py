"""Images or vectors as tf.Examples in TFRecord shards, with record counts and hashes to verify shards.

A tf.Example has `image/encoded` (the bytes of the file) or `vector` (a list of floats), and
`image/id`, `label` and `role`, one byte string each; `image/pixels` is the hash of the decoded image,
and `attribute/<name>` is an additional column of the data. A folder of examples has one folder per
split, `Split-train` and so on, and `counts.json` with the number of records and the SHA-256 of every
shard, since TFRecord cannot detect a shard that is truncated between two records. Paths can be of any
file system that TensorFlow supports.
"""

import hashlib
import json
import posixpath
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from anchorage.data.listing import SPLITS, Reject
from anchorage.data.tables import ATTRIBUTE
from anchorage.errors import DataError

COUNTS, REJECTS = "counts.json", "rejects.jsonl"
FEATURES = ("image/id", "label", "role")

IMAGE, VECTOR, _PIXELS = "image/encoded", "vector", "image/pixels"
_BLOCK = 1 << 20


class Example(NamedTuple):
    """An image or vector with its id, label and role.

    `content` is the encoded file or the vector `(D,)` float32, `attributes` are additional columns by name, `pixels` is
    the hash of the decoded image or "" (see `anchorage.data.images.hash_pixels`).
    """

    id: str
    label: str
    role: str
    content: bytes | np.ndarray
    attributes: tuple[tuple[str, str], ...] = ()
    pixels: str = ""


class ExampleShard(NamedTuple):
    """A TFRecord file: its path relative to the root, and, if known, its number of records and SHA-256."""

    file: str
    records: int | None = None
    sha256: str | None = None


def encode_example(example: Example) -> bytes:
    """Serialize an image or vector as a tf.Example."""
    import tensorflow as tf

    values = (example.id.encode(), example.label.encode(), example.role.encode())
    named = dict(zip(FEATURES, values, strict=True))
    if isinstance(example.content, bytes):
        named[IMAGE] = example.content
    if example.pixels:
        named[_PIXELS] = example.pixels.encode()
    named |= {f"{ATTRIBUTE}{name}": value.encode() for name, value in example.attributes}
    features = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for name, value in named.items()}
    if not isinstance(example.content, bytes):
        features[VECTOR] = tf.train.Feature(float_list=tf.train.FloatList(value=example.content))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def decode_example(data: bytes) -> Example:
    """Parse a serialized tf.Example; a missing role is "both".

    Raises:
        ValueError: if the bytes are not a tf.Example, or a feature is invalid.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        features = tf.train.Example.FromString(data).features.feature
    except DecodeError as error:
        raise ValueError(f"Expected a tf.Example. Received: {len(data)} bytes; {error}") from None
    values = {}
    vector = np.array(features[VECTOR].float_list.value, np.float32) if VECTOR in features else None
    for name in FEATURES if vector is not None else (*FEATURES, IMAGE):
        strings = features[name].bytes_list.value if name in features else []
        if name == "role" and name not in features:
            strings = [b"both"]
        if len(strings) != 1:
            raise ValueError(f"Expected one byte string as `{name}`. Received: {len(strings)} of {sorted(features)}")
        values[name] = strings[0]
    key, label, role = (values[name].decode() for name in FEATURES)
    content = values[IMAGE] if vector is None else vector
    columns = [name for name in sorted(features) if name.startswith(ATTRIBUTE)]
    attributes = tuple(
        (name.removeprefix(ATTRIBUTE), b"".join(features[name].bytes_list.value).decode()) for name in columns
    )
    pixels = b"".join(features[_PIXELS].bytes_list.value).decode() if _PIXELS in features else ""
    return Example(key, label, role, content, attributes, pixels)


def write_shard(root: str, file: str, examples: Iterable[Example]) -> ExampleShard:
    """Write a GZIP TFRecord file atomically; the same examples give the same bytes.

    Args:
        root: folder of the examples.
        file: path of the shard, relative to `root`.
        examples: images, streamed.
    """
    import tensorflow as tf

    path = posixpath.join(root, file)
    part = posixpath.join(posixpath.dirname(path), f".{posixpath.basename(path)}.part")
    tf.io.gfile.makedirs(posixpath.dirname(path))
    options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)  # images hardly shrink
    count = 0
    with tf.io.TFRecordWriter(part, options) as writer:
        for example in examples:
            writer.write(encode_example(example))
            count += 1
    digest = _hash(part)
    tf.io.gfile.rename(part, path, overwrite=True)
    return ExampleShard(file, count, digest)


def list_shards(root: str, split: str) -> list[ExampleShard]:
    """List the shards of a split, from `counts.json`, or from the folder if another tool wrote the examples."""
    import tensorflow as tf

    counts = read_counts(root)
    if counts is not None:
        return [ExampleShard(**shard) for shard in counts["splits"].get(split, {}).get("shards", [])]
    files = sorted(tf.io.gfile.glob(posixpath.join(root, f"Split-{split}", "*")))
    return [ExampleShard(posixpath.join(f"Split-{split}", posixpath.basename(file))) for file in files]


def read_counts(root: str) -> dict | None:
    """Read `counts.json` of a folder of examples, or return None if there is none.

    Raises:
        DataError: `E_COUNTS_DAMAGED` if its content is invalid.
    """
    import tensorflow as tf

    path = posixpath.join(root, COUNTS)
    if not tf.io.gfile.exists(path):
        return None
    try:
        with tf.io.gfile.GFile(path) as file:
            counts = json.loads(file.read())
        for split in counts["splits"].values():
            [ExampleShard(**shard) for shard in split["shards"]]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            "E_COUNTS_DAMAGED", f"Expected the splits and shards that ingestion writes in {path}. Received: {error!r}."
        ) from error
    return counts


def write_counts(root: str, shards: Iterable[tuple[ExampleShard, Collection[str]]], rejects: Sequence[Reject], **more):
    """Write `counts.json` and `rejects.jsonl` of a folder of examples.

    Args:
        root: folder of the examples.
        shards: all shards, each with its labels.
        rejects: rejected records.
        **more: additional values for `counts.json`.
    """
    import tensorflow as tf

    splits: dict[str, dict] = {split: {"records": 0, "classes": 0, "shards": []} for split in SPLITS}
    labels: dict[str, set] = {split: set() for split in SPLITS}
    for shard, shard_labels in sorted(shards, key=lambda item: item[0].file):
        split = shard.file.split("/")[0].removeprefix("Split-")
        splits[split]["records"] += shard.records
        splits[split]["shards"].append(shard._asdict())
        labels[split].update(shard_labels)
    for split, facts in splits.items():
        facts["classes"] = len(labels[split])
    codes = dict(sorted(Counter(reject.code for reject in rejects).items()))
    write_rejects(posixpath.join(root, REJECTS), rejects)
    with tf.io.gfile.GFile(posixpath.join(root, COUNTS), "w") as file:
        file.write(json.dumps({"format": 1, "splits": splits, "rejects": codes, **more}, indent=1) + "\n")


def shard_file(split: str, number: int, total: int) -> str:
    """Return the path of a shard, relative to the folder of the examples."""
    return f"Split-{split}/data_tfrecord-{number:05d}-of-{total:05d}.gz"


def read_rejects(root: str) -> list[Reject]:
    """Read the rejected records from `rejects.jsonl`; empty if there is no such file."""
    import tensorflow as tf

    path = posixpath.join(root, REJECTS)
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path) as file:
        return [Reject(**json.loads(line)) for line in file]


def write_rejects(path: str, rejects: Iterable[Reject]) -> None:
    """Write the rejected records, one JSON object per line."""
    import tensorflow as tf

    tf.io.gfile.makedirs(posixpath.dirname(path))
    with tf.io.gfile.GFile(path, "w") as file:
        file.write("".join(json.dumps(reject._asdict(), ensure_ascii=False) + "\n" for reject in sorted(rejects)))


def read_records(root: str, shard: ExampleShard) -> Iterator[bytes]:
    """Yield the serialized records of a shard, then verify their number and the hash of the file.

    Raises:
        DataError: `E_SHARD_TRUNCATED` if records are missing, `E_SHARD_DAMAGED` if the file differs otherwise.
    """
    import tensorflow as tf

    path, count = posixpath.join(root, shard.file), 0
    expected = "an unknown number of" if shard.records is None else shard.records
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            compression = "GZIP" if file.read(2) == b"\x1f\x8b" else ""
        for record in tf.data.TFRecordDataset(path, compression).prefetch(4):
            yield record.numpy()
            count += 1
    except tf.errors.NotFoundError:
        raise DataError("E_SHARD_TRUNCATED", f"{path}: expected {expected} records. The file is missing") from None
    except tf.errors.OpError as error:
        code = "E_SHARD_TRUNCATED" if "truncated" in error.message else "E_SHARD_DAMAGED"
        reason = error.message.partition("}} ")[2] or error.message
        raise DataError(code, f"{path}: expected {expected} records. Reading failed after {count}: {reason}.") from None
    if shard.records is not None and count != shard.records:
        raise DataError("E_SHARD_TRUNCATED", f"{path}: expected {expected} records. Received: {count}.")
    if shard.sha256 is not None and _hash(path) != shard.sha256:
        raise DataError("E_SHARD_DAMAGED", f"{path} has all {count} records, but its hash differs from {COUNTS}.")


def read_examples(root: str, shard: ExampleShard) -> Iterator[Example]:
    """Yield the images or vectors of a shard, verified as by `read_records`.

    Raises:
        DataError: as `read_records`, and `E_RECORD_INVALID` if a record is not an image example.
    """
    for number, record in enumerate(read_records(root, shard)):
        try:
            yield decode_example(record)
        except ValueError as error:
            raise DataError(
                "E_RECORD_INVALID", f"Record {number} of {posixpath.join(root, shard.file)}: {error}"
            ) from None


def _hash(path: str) -> str:
    import tensorflow as tf

    digest = hashlib.sha256()
    with tf.io.gfile.GFile(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
