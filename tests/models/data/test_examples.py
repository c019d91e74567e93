import gzip
import json

import pytest
import tensorflow as tf

from anchorage.data.examples import (
    COUNTS,
    Example,
    ExampleShard,
    decode_example,
    encode_example,
    list_shards,
    read_counts,
    read_examples,
    read_records,
    write_shard,
)
from anchorage.errors import DataError

EXAMPLES = [Example(f"katze/größe {n}.png", "Katze ü", "both", bytes([n]) * 1000) for n in range(6)]
FILE = "Split-train/data_tfrecord-00000-of-00001.gz"


@pytest.fixture
def shard(tmp_path):
    return write_shard(str(tmp_path), FILE, EXAMPLES)


def consume(tmp_path, shard):
    return list(read_records(str(tmp_path), shard))


def test_examples_come_back(tmp_path, shard):
    assert (shard.file, shard.records) == (FILE, 6)
    assert list(read_examples(str(tmp_path), shard)) == EXAMPLES
    assert [path.name for path in (tmp_path / "Split-train").iterdir()] == ["data_tfrecord-00000-of-00001.gz"]


def test_attributes_come_back_and_need_not_be_there():
    example = EXAMPLES[0]._replace(attributes=(("camera", ""), ("family", "größe")))
    assert decode_example(encode_example(example)) == example
    features = tf.train.Example.FromString(encode_example(example)).features.feature
    assert features["attribute/family"].bytes_list.value == ["größe".encode()]


def test_feature_names_are_those_other_tools_expect():
    features = tf.train.Example.FromString(encode_example(EXAMPLES[1])).features.feature
    assert {name: list(features[name].bytes_list.value) for name in features} == {
        "image/id": ["katze/größe 1.png".encode()],
        "label": ["Katze ü".encode()],
        "role": [b"both"],
        "image/encoded": [b"\1" * 1000],
    }


def test_the_same_examples_give_the_same_bytes(tmp_path, shard):
    again = write_shard(str(tmp_path), FILE + "2", EXAMPLES)
    assert again.sha256 == shard.sha256


def test_a_record_without_role_has_both():
    example = tf.train.Example.FromString(encode_example(EXAMPLES[0]))
    del example.features.feature["role"]
    assert decode_example(example.SerializeToString()).role == "both"


def test_f08_shard_cut_between_two_records(tmp_path, shard):
    path = tmp_path / FILE
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[: len(content) // 6 * 4]))
    with pytest.raises(DataError, match=r"E_SHARD_TRUNCATED: .*expected 6 records. Received: 4"):
        consume(tmp_path, shard)


def test_f08_shard_cut_inside_a_record(tmp_path, shard):
    path = tmp_path / FILE
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[: len(content) // 2 + 100]))
    with pytest.raises(DataError, match=r"E_SHARD_TRUNCATED: .*expected 6 records. Reading failed after 3: trunc"):
        consume(tmp_path, shard)


def test_f08_compressed_file_cut_off(tmp_path, shard):
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="E_SHARD_"):
        consume(tmp_path, shard)


def test_f08_missing_and_empty_file(tmp_path, shard):
    (tmp_path / FILE).write_bytes(b"")
    with pytest.raises(DataError, match=r"E_SHARD_TRUNCATED: .*expected 6 records. Received: 0"):
        consume(tmp_path, shard)
    (tmp_path / FILE).unlink()
    with pytest.raises(DataError, match=r"E_SHARD_TRUNCATED: .*The file is missing"):
        consume(tmp_path, shard)


def test_f09_flipped_bit(tmp_path):
    shard = write_shard(str(tmp_path), FILE, EXAMPLES)
    content = bytearray(gzip.decompress((tmp_path / FILE).read_bytes()))
    content[len(content) // 2 + 300] ^= 1
    (tmp_path / FILE).write_bytes(gzip.compress(bytes(content)))
    with pytest.raises(DataError, match=r"E_SHARD_DAMAGED: .*Reading failed after 3: corrupted record"):
        consume(tmp_path, shard)


def test_f09_other_bytes_with_the_right_count(tmp_path, shard):
    write_shard(str(tmp_path), FILE, [example._replace(label="other") for example in EXAMPLES])
    with pytest.raises(DataError, match=r"E_SHARD_DAMAGED: .*its hash differs from counts.json"):
        consume(tmp_path, shard)


def test_f09_plain_and_empty_shards_are_read(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "plain")) as writer:
        writer.write(encode_example(EXAMPLES[2]))
    assert list(read_examples(str(tmp_path), ExampleShard("plain"))) == [EXAMPLES[2]]
    assert consume(tmp_path, write_shard(str(tmp_path), "empty.gz", [])) == []


def test_a_record_that_is_not_an_image_is_named(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "foreign")) as writer:
        writer.write(encode_example(EXAMPLES[0]))
        writer.write(tf.train.Example().SerializeToString())
    with pytest.raises(DataError, match=r"E_RECORD_INVALID: Record 1 of .*: Expected one byte string as `image/id`"):
        list(read_examples(str(tmp_path), ExampleShard("foreign")))
    with pytest.raises(ValueError, match=r"Expected a tf.Example. Received: 4 bytes"):
        decode_example(b"\xff\xff\xff\xff")


def test_shards_are_listed_from_the_counts_or_from_the_folder(tmp_path, shard):
    assert read_counts(str(tmp_path)) is None
    assert list_shards(str(tmp_path), "train") == [ExampleShard(FILE)]
    assert list_shards(str(tmp_path), "val") == []
    (tmp_path / COUNTS).write_text(json.dumps({"splits": {"train": {"shards": [shard._asdict()]}}}))
    assert list_shards(str(tmp_path), "train") == [shard]
    assert list_shards(str(tmp_path), "val") == []


@pytest.mark.parametrize("content", ["{", "[]", '{"splits": {"train": {"shards": [{"name": 1}]}}}'])
def test_rejects_damaged_counts(tmp_path, content):
    (tmp_path / COUNTS).write_text(content)
    with pytest.raises(DataError, match="E_COUNTS_DAMAGED"):
        read_counts(str(tmp_path))
