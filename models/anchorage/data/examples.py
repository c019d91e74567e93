"""Images or vectors as tf.Examples in TFRecord shards, with counts and hashes that show a shard to be whole.

A tf.Example holds `image/encoded` (the file's bytes) or `vector` (a list of floats), and one byte
string each as `image/id`, `label` and `role`; `image/pixels` is the hash of the decoded image, and
`attribute/<name>` is a further column of the data's table. A folder of examples has one folder a
split, `Split-train` and so on, and `counts.json` at its root: records and SHA-256 of every shard.
TFRecord alone cannot tell a shard that was cut off between two records from a whole one. Paths may be
anything TensorFlow's file layer opens.
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

_IMAGE, _VECTOR, _PIXELS = "image/encoded", "vector", "image/pixels"
_BLOCK = 1 << 20


class Example(NamedTuple):
    """One image or vector with its place in the data.

    `content` is the encoded file or the vector `(D,)` float32, `attributes` are further columns by name, `pixels` is
    the hash of the decoded image where it is known (see `anchorage.data.images.hash_pixels`).
    """

    id: str
    label: str
    role: str
    content: bytes | np.ndarray
    attributes: tuple[tuple[str, str], ...] = ()
    pixels: str = ""


class ExampleShard(NamedTuple):
    """One TFRecord file: its path below the root, and, where known, its records and SHA-256."""

    file: str
    records: int | None = None
    sha256: str | None = None


def encode_example(example: Example) -> bytes:
    """The serialized tf.Example of one image or vector."""
    import tensorflow as tf

    values = (example.id.encode(), example.label.encode(), example.role.encode())
    named = dict(zip(FEATURES, values, strict=True))
    if isinstance(example.content, bytes):
        named[_IMAGE] = example.content
    if example.pixels:
        named[_PIXELS] = example.pixels.encode()
    named |= {f"{ATTRIBUTE}{name}": value.encode() for name, value in example.attributes}
    features = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for name, value in named.items()}
    if not isinstance(example.content, bytes):
        features[_VECTOR] = tf.train.Feature(float_list=tf.train.FloatList(value=example.content))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(deterministic=True)


def decode_example(data: bytes) -> Example:
    """What one serialized tf.Example holds; a missing role is "both".

    Raises:
        ValueError: if the bytes are no tf.Example, or a feature is not what it should be.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        features = tf.train.Example.FromString(data).features.feature
    except DecodeError as error:
        raise ValueError(f"Expected a tf.Example. Received: {len(data)} bytes; {error}") from None
    values = {}
    vector = np.array(features[_VECTOR].float_list.value, np.float32) if _VECTOR in features else None
    for name in FEATURES if vector is not None else (*FEATURES, _IMAGE):
        found = features[name].bytes_list.value if name in features else []
        if name == "role" and name not in features:
            found = [b"both"]
        if len(found) != 1:
            raise ValueError(f"Expected one byte string as `{name}`. Received: {len(found)} of {sorted(features)}")
        values[name] = found[0]
    key, label, role = (values[name].decode() for name in FEATURES)
    content = values[_IMAGE] if vector is None else vector
    kept = ((name.removeprefix(ATTRIBUTE), features[name]) for name in sorted(features) if name.startswith(ATTRIBUTE))
    attributes = tuple((name, b"".join(feature.bytes_list.value).decode()) for name, feature in kept)
    pixels = b"".join(features[_PIXELS].bytes_list.value).decode() if _PIXELS in features else ""
    return Example(key, label, role, content, attributes, pixels)


def write_shard(root: str, file: str, examples: Iterable[Example]) -> ExampleShard:
    """Write one GZIP TFRecord file; it appears under its name only when whole.

    Args:
        root: folder of the examples.
        file: path of the shard below it; the same examples give the same bytes.
        examples: what goes in, streamed.
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
    """The shards of one split, from `counts.json`, or from the folder where another tool wrote it."""
    import tensorflow as tf

    counts = read_counts(root)
    if counts is not None:
        return [ExampleShard(**shard) for shard in counts["splits"].get(split, {}).get("shards", [])]
    files = sorted(tf.io.gfile.glob(posixpath.join(root, f"Split-{split}", "*")))
    return [ExampleShard(posixpath.join(f"Split-{split}", posixpath.basename(file))) for file in files]


def read_counts(root: str) -> dict | None:
    """`counts.json` of a folder of examples, or None where there is none.

    Raises:
        DataError: `E_COUNTS_DAMAGED` if it is not what ingest writes.
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
        raise DataError("E_COUNTS_DAMAGED", f"{path} is not as ingest writes it ({error!r}).") from error
    return counts


def write_counts(root: str, shards: Iterable[tuple[ExampleShard, Collection[str]]], rejects: Sequence[Reject], **more):
    """Write `counts.json` and `rejects.jsonl` of a folder of examples.

    Args:
        root: the folder.
        shards: all of them, each with the labels in it.
        rejects: records that were set aside.
        **more: what else to say in `counts.json`.
    """
    import tensorflow as tf

    splits: dict[str, dict] = {split: {"records": 0, "classes": 0, "shards": []} for split in SPLITS}
    labels: dict[str, set] = {split: set() for split in SPLITS}
    for shard, found in sorted(shards, key=lambda item: item[0].file):
        split = shard.file.split("/")[0].removeprefix("Split-")
        splits[split]["records"] += shard.records
        splits[split]["shards"].append(shard._asdict())
        labels[split].update(found)
    for split, facts in splits.items():
        facts["classes"] = len(labels[split])
    codes = dict(sorted(Counter(reject.code for reject in rejects).items()))
    write_rejects(posixpath.join(root, REJECTS), rejects)
    with tf.io.gfile.GFile(posixpath.join(root, COUNTS), "w") as file:
        file.write(json.dumps({"format": 1, "splits": splits, "rejects": codes, **more}, indent=1) + "\n")


def shard_file(split: str, number: int, total: int) -> str:
    """Path of a shard below the folder of the examples."""
    return f"Split-{split}/data_tfrecord-{number:05d}-of-{total:05d}.gz"


def read_rejects(root: str) -> list[Reject]:
    """The records that were set aside, from `rejects.jsonl`; none where there is no such file."""
    import tensorflow as tf

    path = posixpath.join(root, REJECTS)
    if not tf.io.gfile.exists(path):
        return []
    with tf.io.gfile.GFile(path) as file:
        return [Reject(**json.loads(line)) for line in file]


def write_rejects(path: str, rejects: Iterable[Reject]) -> None:
    """Write the records that were set aside, one JSON object a line."""
    import tensorflow as tf

    tf.io.gfile.makedirs(posixpath.dirname(path))
    with tf.io.gfile.GFile(path, "w") as file:
        file.write("".join(json.dumps(reject._asdict(), ensure_ascii=False) + "\n" for reject in sorted(rejects)))


def read_records(root: str, shard: ExampleShard) -> Iterator[bytes]:
    """The serialized records of one shard, and proof that there were no more.

    Raises:
        DataError: `E_SHARD_TRUNCATED` if records are missing, `E_SHARD_DAMAGED` if the file was changed otherwise.
    """
    import tensorflow as tf

    path, count = posixpath.join(root, shard.file), 0
    wanted = "an unknown number of" if shard.records is None else shard.records
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            compression = "GZIP" if file.read(2) == b"\x1f\x8b" else ""
        for record in tf.data.TFRecordDataset(path, compression).prefetch(4):
            yield record.numpy()
            count += 1
    except tf.errors.NotFoundError:
        raise DataError("E_SHARD_TRUNCATED", f"{path}: expected {wanted} records. The file is missing") from None
    except tf.errors.OpError as error:
        code = "E_SHARD_TRUNCATED" if "truncated" in error.message else "E_SHARD_DAMAGED"
        reason = error.message.partition("}} ")[2] or error.message
        raise DataError(
            code, f"{path}: expected {wanted} records. Reading broke off after {count}: {reason}."
        ) from None
    if shard.records is not None and count != shard.records:
        raise DataError("E_SHARD_TRUNCATED", f"{path}: expected {wanted} records. Received: {count}.")
    if shard.sha256 is not None and _hash(path) != shard.sha256:
        raise DataError("E_SHARD_DAMAGED", f"{path} has all its {count} records, but not the bytes that ingest wrote.")


def read_examples(root: str, shard: ExampleShard) -> Iterator[Example]:
    """The images of one shard, checked like `read_records`.

    Raises:
        DataError: as there, and `E_RECORD_INVALID` if a record is no image example.
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
