import functools
import io
import json
import os
import struct

import apache_beam as beam
import numpy as np
import pytest
from PIL import Image
from tfx.types.standard_artifacts import Examples

from anchorage.data.examples import list_shards, read_counts, read_examples, read_rejects
from anchorage.errors import DataError
from anchorage_components.image_example_gen import ImageExampleGen


def encode(image, kind="PNG", **options):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(seed, shape=(8, 8, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def plant(root, files):
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


@functools.cache
def small_tree():
    """Six classes of three images."""
    return {
        f"class {label}/{number}.png": encode(noise(ord(label) + number)) for label in "abcdef" for number in range(3)
    }


def ingest(tmp_path, name="out", **parameters):
    examples = Examples()
    examples.uri = str(tmp_path / name)
    settings = {"root": str(tmp_path / "data"), "val_share": 0.3, "beam_pipeline": beam.Pipeline(), **parameters}
    ImageExampleGen.test_call(examples=examples, **settings)
    return examples


def records(examples, split):
    return [item for shard in list_shards(examples.uri, split) for item in read_examples(examples.uri, shard)]


def test_folder_becomes_examples_with_bytes_untouched(tmp_path):
    plant(tmp_path / "data", small_tree())
    examples = ingest(tmp_path)
    assert examples.splits == ["train", "val", "test"]
    found = {split: records(examples, split) for split in examples.splits}
    assert {split: len({item.label for item in items}) for split, items in found.items()} == {
        "train": 2,
        "val": 1,
        "test": 3,
    }
    everything = [item for items in found.values() for item in items]
    assert {item.id: item.content for item in everything} == small_tree()
    assert all(item.label == item.id.split("/")[0] and item.role == "both" for item in everything)
    counts = read_counts(examples.uri)
    assert {split: facts["records"] for split, facts in counts["splits"].items()} == {"train": 6, "val": 3, "test": 9}
    assert (counts["rejects"], counts["notes"], counts["skipped"]) == ({}, {}, 0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "Split-test",
        "Split-train",
        "Split-val",
        "counts.json",
        "rejects.jsonl",
    ]


def test_the_same_data_gives_the_same_bytes(tmp_path):
    plant(tmp_path / "data", small_tree())
    first, second = (ingest(tmp_path, name) for name in ("one", "two"))
    assert read_counts(first.uri) == read_counts(second.uri)


def test_table_with_renamed_columns_and_extra_ones(tmp_path):
    plant(tmp_path / "data", small_tree())
    rows = [f"{path},{path.split('/')[0]},{'train' if path[6] in 'abc' else 'test'},x" for path in small_tree()]
    (tmp_path / "data/table.csv").write_text("file,kind,split,extra\n" + "\n".join(rows))
    columns = json.dumps({"path": "file", "label": "kind"})
    examples = ingest(tmp_path, table=str(tmp_path / "data/table.csv"), columns_json=columns)
    assert {item.label for item in records(examples, "test")} == {"class d", "class e", "class f"}
    assert len({item.label for item in records(examples, "val")}) == 1


def test_f05_f06_f10_every_unusual_image_passes(tmp_path):
    palette = Image.fromarray(noise(1, (8, 8)), "P")
    palette.putpalette(noise(2, (768,)).tolist())
    turned = Image.fromarray(noise(3)).getexif()
    turned[0x0112] = 6
    files = {
        "cmyk.jpg": encode(Image.new("CMYK", (8, 8), (1, 2, 3, 4)), "JPEG"),
        "sixteen.png": encode(noise(4, (8, 8)).astype(np.uint16) * 257),
        "palette.png": encode(palette, transparency=3),
        "animated.gif": encode(palette, "GIF", save_all=True, append_images=[Image.fromarray(noise(5, (8, 8)))]),
        "animated.webp": encode(noise(6), "WEBP", save_all=True, append_images=[Image.fromarray(noise(7))]),
        "turned.jpeg": encode(noise(8), "JPEG", exif=turned),
        "größe  №1 😀.BMP": encode(noise(9), "BMP"),
    }
    labels = ("Äpfel und Öl", "日本 2", "plain", "4")
    plant(tmp_path / "data", {f"{label}/{name}": data for label in labels for name, data in files.items()})
    examples = ingest(tmp_path)
    everything = [item for split in examples.splits for item in records(examples, split)]
    assert {item.id for item in everything} == {f"{label}/{name}" for label in labels for name in files}
    assert {item.label for item in everything} == set(labels)
    assert read_counts(examples.uri)["notes"] == {
        "animated": 8,
        "cmyk": 4,
        "grey": 4,
        "palette": 8,
        "sixteen_bit": 4,
        "transparent": 4,
        "turned": 4,
    }


def test_f01_f03_f07_bad_images_are_rejected_and_the_rest_goes_on(tmp_path):
    jpeg = encode(noise(1, (64, 64, 3)), "JPEG")
    bomb = bytearray(encode(noise(2)))
    bomb[16:24] = struct.pack(">II", 16000, 16000)
    bad = {
        "class a/cut.jpg": jpeg[: len(jpeg) // 2],
        "class b/page.jpg": b"<html>not found</html>",
        "class c/empty.png": b"",
        "class d/large.png": encode(noise(3, (40, 40, 3))),
    }
    plant(tmp_path / "data", {**small_tree(), **bad})
    (tmp_path / "data/class e/gone.png").symlink_to("nowhere.png")
    (tmp_path / "data/class f/folder.png").mkdir()
    os.mkfifo(tmp_path / "data/class f/pipe.png")
    (tmp_path / "data/class f/loop.png").symlink_to("loop.png")
    (tmp_path / "data/class f/zero.png").symlink_to("/dev/zero")
    (tmp_path / "data/stray.png").write_bytes(jpeg)
    examples = ingest(tmp_path, max_pixels=1000)
    assert sum(len(records(examples, split)) for split in examples.splits) == 18
    assert {reject.path: reject.code for reject in read_rejects(examples.uri)} == {
        "class a/cut.jpg": "E_IMAGE_TOO_LARGE",
        "class b/page.jpg": "E_IMAGE_FORMAT",
        "class c/empty.png": "E_IMAGE_EMPTY",
        "class d/large.png": "E_IMAGE_TOO_LARGE",
        "class e/gone.png": "E_IMAGE_MISSING",
        "class f/pipe.png": "E_IMAGE_NO_FILE",
        "class f/loop.png": "E_IMAGE_UNREADABLE",
        "class f/zero.png": "E_PATH_OUTSIDE",
        "stray.png": "E_LABEL_MISSING",
    }
    examples = ingest(tmp_path, "again")
    codes = {reject.path: reject.code for reject in read_rejects(examples.uri)}
    assert codes["class a/cut.jpg"] == "E_IMAGE_TRUNCATED"
    assert "class d/large.png" not in codes


def test_too_many_rejects_stop_the_run_and_say_which(tmp_path):
    plant(tmp_path / "data", {**small_tree(), "class a/x.png": b"no", "class b/y.png": b"no"})
    with pytest.raises(
        DataError, match=r"E_TOO_MANY_REJECTS: Expected at most 1 bad records of 20. Received: 2 E_IMAGE_F"
    ):
        ingest(tmp_path, max_rejects=1)
    assert len(read_rejects(ingest(tmp_path, "half", max_rejects=0, max_reject_share=0.1).uri)) == 2
    file = tmp_path / "kept/rejects.jsonl"
    with pytest.raises(DataError, match=f"All are in {file}"):
        ingest(tmp_path, "again", max_rejects=1, rejects_file=str(file))
    result = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(reject["path"], reject["code"]) for reject in result] == [
        ("class a/x.png", "E_IMAGE_FORMAT"),
        ("class b/y.png", "E_IMAGE_FORMAT"),
    ]


def test_label_missing_in_a_table(tmp_path):
    plant(tmp_path / "data", small_tree())
    rows = [f"{path},{path.split('/')[0] if number else ''}" for number, path in enumerate(small_tree())]
    (tmp_path / "data/table.csv").write_text("path,label\n" + "\n".join(rows))
    examples = ingest(tmp_path, table=str(tmp_path / "data/table.csv"))
    assert [reject.code for reject in read_rejects(examples.uri)] == ["E_LABEL_MISSING"]
    file = tmp_path / "rejects.jsonl"
    with pytest.raises(DataError, match=r"E_TOO_MANY_REJECTS: .*1 E_LABEL_MISSING"):
        ingest(tmp_path, "none", table=str(tmp_path / "data/table.csv"), max_rejects=0, rejects_file=str(file))
    assert json.loads(file.read_text())["code"] == "E_LABEL_MISSING"


def test_f13_empty_splits_name_what_emptied_them(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="E_SPLIT_EMPTY: The split train has no images: no image was found"):
        ingest(tmp_path)
    plant(tmp_path / "data", small_tree())
    with pytest.raises(DataError, match=r"E_SPLIT_EMPTY: The split val has no images: `data.val_share` is 0; raise it"):
        ingest(tmp_path, val_share=0.0)
    (tmp_path / "data/t.csv").write_text("path,label,split\nclass a/1.png,a,train\nclass b/1.png,b,train\n")
    with pytest.raises(DataError, match="E_SPLIT_EMPTY: The split test has no images"):
        ingest(tmp_path, table=str(tmp_path / "data/t.csv"))
    plant(tmp_path / "data", {"class c/0.png": b"x"})
    (tmp_path / "data/t.csv").write_text(
        "path,label,split\nclass a/1.png,a,train\nclass b/1.png,b,val\nclass c/0.png,c,test\n"
    )
    with pytest.raises(
        DataError, match="The split test has no images: all of its 1 images were rejected: 1 E_IMAGE_FOR"
    ):
        ingest(tmp_path, "late", table=str(tmp_path / "data/t.csv"))


def test_f11_class_with_one_image_is_kept(tmp_path):
    plant(tmp_path / "data", {**small_tree(), "class g/only.png": encode(noise(1))})
    examples = ingest(tmp_path)
    assert "class g" in {item.label for split in examples.splits for item in records(examples, split)}


def test_columns_that_the_evaluation_names_stay_with_the_images(tmp_path):
    plant(tmp_path / "data", small_tree())
    rows = "".join(f"{path},{path.split('/')[0]},{path[-5]}\n" for path in small_tree())
    (tmp_path / "t.csv").write_text("path,label,take\n" + rows)
    examples = ingest(tmp_path, table=str(tmp_path / "t.csv"), attributes_json='["take"]')
    for item in records(examples, "train"):
        assert item.attributes == (("take", item.id[-5]),)
