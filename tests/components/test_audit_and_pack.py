import gzip
import io
import json

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tfx.types.standard_artifacts import Examples

from anchorage.data.examples import Example, encode_example, list_shards
from anchorage.data.images import load_image
from anchorage.data.store import RecordSpec, RecordStore
from anchorage.errors import DataError, UsageError
from anchorage_components.artifacts import DataAudit
from anchorage_components.audit_examples import AuditExamples
from anchorage_components.image_example_gen import ImageExampleGen
from anchorage_components.pack_examples import PackExamples


def picture(seed, size=(9, 12)):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


ROWS = {  # path: (label, split, role)
    **{f"a/{n}.png": ("apple", "train", "both") for n in range(70)},
    **{f"b/{n}.png": ("birne", "train", "both") for n in range(3)},
    "c/1.png": ("cherry", "val", "both"),
    "c/2.png": ("cherry", "val", "both"),
    "d/1.png": ("date", "test", "query"),
    "d/2.png": ("date", "test", "gallery"),
    "e/1.png": ("elder", "test", "gallery"),
}
IMAGES = {path: picture(number) for number, path in enumerate(ROWS)}


def ingest(tmp_path, rows=ROWS, name="examples"):
    """Examples of these rows, in shards of 512 images."""
    for path in rows:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(IMAGES[path])
    table = "".join(f"{path},{','.join(fields)}\n" for path, fields in rows.items())
    (tmp_path / "table.csv").write_text("path,label,split,role\n" + table)
    examples = Examples()
    examples.uri = str(tmp_path / name)
    settings = {"root": str(tmp_path), "table": str(tmp_path / "table.csv"), "beam_pipeline": beam.Pipeline()}
    ImageExampleGen.test_call(examples=examples, **settings)
    return examples


def pack(examples, tmp_path, image_size=6, fit="crop"):
    store = Examples()
    store.uri = str(tmp_path / "store")
    settings = {"image_size": image_size, "fit": fit, "beam_pipeline": beam.Pipeline()}
    PackExamples.test_call(examples=examples, store=store, **settings)
    return store


def audit(examples, tmp_path, block=1):
    found = DataAudit()
    found.uri = str(tmp_path / "audit")
    AuditExamples.test_call(examples=examples, audit=found, block=block, beam_pipeline=beam.Pipeline())
    return json.loads((tmp_path / "audit/audit.json").read_text())


def test_packed_rows_are_the_images_by_the_one_rule(tmp_path):
    store = pack(ingest(tmp_path), tmp_path)
    assert store.splits == ["train", "val", "test"]
    train, test = RecordStore(store.uri + "/Split-train"), RecordStore(store.uri + "/Split-test")
    assert (len(train), train.class_names, train.spec) == (73, ["apple", "birne"], RecordSpec(6, "crop"))
    assert test.roles.tolist() == ["query", "gallery", "gallery"]
    for key, image in zip(train.ids, train.read(range(73)), strict=True):
        assert image.tolist() == load_image(IMAGES[key], 6, "crop").numpy().tolist()


def test_several_shards_become_one_index(tmp_path, monkeypatch):
    monkeypatch.setattr("anchorage_components.image_example_gen._SHARD_IMAGES", 20)
    examples = ingest(tmp_path)
    assert [shard.records for shard in list_shards(examples.uri, "train")] == [20, 20, 20, 13]
    store = RecordStore(pack(examples, tmp_path, 4, "pad").uri + "/Split-train")
    assert store.ids.tolist() == sorted(path for path, fields in ROWS.items() if fields[1] == "train")
    assert store.read([72]).tolist() == [load_image(IMAGES["b/2.png"], 4, "pad").numpy().tolist()]


def test_f08_truncated_shard_stops_packing_and_audit(tmp_path):
    examples = ingest(tmp_path)
    path = tmp_path / "examples" / list_shards(examples.uri, "val")[0].file
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[: 16 + int.from_bytes(content[:8], "little")]))
    for run in (pack, audit):
        with pytest.raises(DataError, match=r"^E_SHARD_TRUNCATED: .*Split-val.*expected 2 records. Received: 1"):
            run(examples, tmp_path)
    assert not (tmp_path / "store/Split-val/store.json").exists()


def test_f13_missing_counts_do_not_hide_an_empty_split(tmp_path):
    examples = ingest(tmp_path)
    (tmp_path / "examples/counts.json").unlink()
    for path in (tmp_path / "examples/Split-val").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"^E_SPLIT_EMPTY: Expected images in the split val"):
        pack(examples, tmp_path)


def test_an_image_that_ingest_would_have_refused_is_named(tmp_path):
    (tmp_path / "foreign/Split-train").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(tmp_path / "foreign/Split-train/records")) as writer:
        for key, image in (("good", picture(1)), ("bad", b"GIF89a nonsense")):
            writer.write(encode_example(Example(key, "x", "both", image)))
    examples = Examples()
    examples.uri, examples.splits = str(tmp_path / "foreign"), ["train"]
    with pytest.raises(DataError, match=r"^E_IMAGE_TRUNCATED: Expected validated images .* Received: 'bad'"):
        pack(examples, tmp_path)


def test_a_store_needs_a_place_for_files(tmp_path):
    examples, store = Examples(), Examples()
    examples.uri, store.uri = str(tmp_path), "gs://bucket/store"
    with pytest.raises(UsageError, match="E_STORE_PLACE"):
        PackExamples.test_call(examples=examples, store=store, image_size=4, beam_pipeline=beam.Pipeline())


def test_audit_counts_what_there_is(tmp_path):
    examples = ingest(tmp_path)
    (tmp_path / "examples/rejects.jsonl").write_text(
        '{"path": "x.jpg", "id": "x.jpg", "code": "E_IMAGE_TRUNCATED", "message": "ends early", "split": "test"}\n'
    )
    found = audit(examples, tmp_path)
    assert found["splits"]["train"] == {
        "images": 73,
        "classes": 2,
        "per_class": {"least": 3, "median": 70, "most": 70},
        "roles": {"both": 73},
        "singletons": {"count": 0, "first": []},
    }
    assert found["splits"]["test"]["roles"] == {"gallery": 2, "query": 1}
    assert found["splits"]["test"]["singletons"] == {"count": 1, "first": ["elder"]}
    assert found["leaks"] == {"count": 0, "first": []}
    assert found["rejects"]["by_code"] == {"E_IMAGE_TRUNCATED": 1}
    text = (tmp_path / "audit/audit.md").read_text()
    assert "| test | 3 | 2 | 1 / 2 / 2 | 1 |" in text
    assert "- x.jpg: E_IMAGE_TRUNCATED: ends early" in text


def test_f12_class_on_two_sides_stops_the_run_or_is_reported(tmp_path):
    rows = {**ROWS, "a/0.png": ("date", "train", "both"), "c/1.png": ("apple", "val", "both")}
    examples = ingest(tmp_path, rows)
    with pytest.raises(DataError) as error:
        audit(examples, tmp_path)
    assert error.value.code == "E_SPLIT_LEAK"
    assert "2 classes in several splits: 'apple' (train 69, val 1), 'date' (train 1, test 2)." in error.value.message
    assert "'date'" not in (tmp_path / "audit/audit.md").read_text()
    assert "- date: train 1, test 2" in (tmp_path / "audit/audit.md").read_text()
    assert audit(examples, tmp_path, block=0)["leaks"]["count"] == 2


def test_f12_one_image_in_two_splits_under_two_labels_stops_the_run_or_is_reported(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    Image.open(io.BytesIO(IMAGES["a/5.png"])).save(buffer, "BMP")  # the same pixels in another format
    monkeypatch.setitem(IMAGES, "d/2.png", buffer.getvalue())
    monkeypatch.setitem(IMAGES, "b/0.png", IMAGES["a/7.png"])
    monkeypatch.setitem(IMAGES, "a/9.png", IMAGES["a/8.png"])
    examples = ingest(tmp_path)
    with pytest.raises(DataError) as error:
        audit(examples, tmp_path)
    assert error.value.code == "E_SPLIT_LEAK"
    expected = "1 images with copies in several splits: a/5.png (train, apple) = d/2.png (test, date). Assign each "
    assert expected in error.value.message
    found = audit(examples, tmp_path, block=0)["identical"]
    assert (found["across_splits"]["count"], found["across_labels"]["count"]) == (1, 1)
    [[first, second]] = found["across_labels"]["first"]
    assert (first["id"], second["id"]) == ("a/7.png", "b/0.png")
    assert first["digest"] == second["digest"]
    assert "- a/7.png (train, apple) = b/0.png (train, birne)" in (tmp_path / "audit/audit.md").read_text()


def test_f12_copies_are_found_in_examples_of_another_tool_too(tmp_path):
    for split, label in (("train", "x"), ("test", "y")):
        (tmp_path / f"foreign/Split-{split}").mkdir(parents=True)
        with tf.io.TFRecordWriter(str(tmp_path / f"foreign/Split-{split}/records")) as writer:
            writer.write(encode_example(Example(f"{label}/1", label, "both", picture(1))))
            writer.write(encode_example(Example(f"{label}/2", label, "both", picture(ord(label)))))
            writer.write(encode_example(Example(f"{label}/3", label, "both", b"no image")))
    examples = Examples()
    examples.uri, examples.splits = str(tmp_path / "foreign"), ["train", "test"]
    with pytest.raises(
        DataError, match=r"E_SPLIT_LEAK: .*1 images with copies in several splits: x/1 \(train, x\) = y/1"
    ):
        audit(examples, tmp_path)
