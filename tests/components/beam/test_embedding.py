"""Batch embedding of files: every good image once, every bad one in the dead letters with its reason."""

import io
import json

import numpy as np
import PIL.Image
import pyarrow.parquet as parquet
import pytest
import tensorflow as tf

from anchorage.data.listing import Reject
from anchorage.errors import DataError, UsageError
from anchorage.release.fingerprint import fingerprint_model
from anchorage.retrieval.table import read_table
from anchorage.storage import delete, join, list_files, local_input, upload, write_bytes
from anchorage_components.beam.bulk import embed_files
from anchorage_components.beam.embedding import Item, embed_batch, embedding_size


def wrap(data, name="x"):
    return Item(f"{name}.png", name, "label", "both", "test", data)


def bomb(side):
    """A small file of very many pixels."""
    buffer = io.BytesIO()
    PIL.Image.new("1", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def photos(tmp_path, picture):
    """A folder of 5 good images in two formats, with names that need care."""
    files = {"a.png": 0, "b c/ü ñ.jpg": 1, "b c/d.JPEG": 2, "z/1.png": 3, "z/2.png": 4}
    for name, seed in files.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed, "PNG" if name.endswith("png") else "JPEG"))
    (tmp_path / "photos/notes.txt").write_text("no image")
    (tmp_path / "photos/.hidden.png").write_bytes(b"")
    return tmp_path / "photos"


def dead_letters(output):
    path = output.with_name(output.name + ".rejects.jsonl")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else None


def test_every_image_gets_its_own_vector(tmp_path, photos, saved_model, embed_exactly):
    output = tmp_path / "new folder/table.parquet"
    assert embed_files([photos], saved_model, output) == (5, 0, 0)
    table = read_table(output)
    assert table.ids.tolist() == sorted(
        f"{photos}/{n}" for n in ("a.png", "b c/ü ñ.jpg", "b c/d.JPEG", "z/1.png", "z/2.png")
    )
    assert set(table.labels) == set(table.splits) == {""}
    assert set(table.roles) == {"both"}
    expected = embed_exactly([(photos / name).read_bytes() for name in table.ids])
    np.testing.assert_allclose(table.vectors, expected, atol=1e-6)
    assert dead_letters(output) is None
    assert [p.name for p in output.parent.iterdir()] == ["table.parquet"]
    facts = parquet.read_schema(output).metadata
    assert facts[b"model_fingerprint"].decode() == fingerprint_model(saved_model)


@pytest.mark.thorough
def test_images_of_a_bucket_are_read_from_there(tmp_path, bucket, photos, saved_model):
    upload(photos, join(bucket, "photos"))
    (tmp_path / "list.txt").write_text(f"{bucket}/photos/none.png\n")
    output, here = tmp_path / "table.parquet", tmp_path / "here.parquet"
    assert embed_files([join(bucket, "photos"), tmp_path / "list.txt"], saved_model, output) == (5, 1, 0)
    embed_files([photos], saved_model, here)
    found, expected = read_table(output), read_table(here)
    assert [id_.removeprefix(bucket) for id_ in found.ids] == [id_.removeprefix(str(tmp_path)) for id_ in expected.ids]
    np.testing.assert_array_equal(found.vectors, expected.vectors)
    assert dead_letters(output)[0]["code"] == "E_IMAGE_MISSING"


@pytest.mark.thorough
def test_a_table_in_a_bucket(make_bucket, photos, saved_model, embed_exactly, monkeypatch):
    monkeypatch.setattr("anchorage_components.beam.bulk._SHARD", 2)
    bucket = make_bucket("gs")
    output = join(bucket, "table")
    (photos / "bad.png").write_bytes(b"no image")
    assert embed_files([photos], saved_model, output) == (5, 1, 0)
    names = list_files(output).keys()
    assert {"plan.json", "rejects.jsonl", "table.json", "vectors-00002.parquet"} < names
    delete(join(output, "vectors-00001.parquet"))
    assert embed_files([photos], saved_model, output) == (5, 1, 4)
    assert list_files(output).keys() == names
    with local_input(output) as folder:
        table = read_table(folder)
    expected = embed_exactly([(photos / name).read_bytes() for name in table.ids])
    np.testing.assert_allclose(table.vectors, expected, atol=1e-6)

    write_bytes(join(bucket, "other/x"), b"of somebody else")
    with pytest.raises(UsageError, match=r"E_OUTPUT_EXISTS: .* Received: x"):
        embed_files([photos], saved_model, join(bucket, "other"))
    with pytest.raises(UsageError, match="E_ADDRESS: Expected a folder"):
        embed_files([photos], saved_model, join(bucket, "table.parquet"))


def test_a_table_of_images_keeps_its_labels(tmp_path, photos, saved_model):
    (photos / "list.csv").write_text("path,label,role\na.png,cat,gallery\nz/1.png,,\nmissing.png,cat,\n")
    output = tmp_path / "table.parquet"
    assert embed_files([photos / "list.csv"], saved_model, output) == (2, 1, 0)
    table = read_table(output)
    assert sorted(zip(table.ids, table.labels, table.roles, strict=True)) == [
        ("a.png", "cat", "gallery"),
        ("z/1.png", "", "both"),
    ]
    [reject] = dead_letters(output)
    assert (reject["id"], reject["code"]) == ("missing.png", "E_IMAGE_MISSING")


def test_f01_bad_images_cost_the_others_nothing(tmp_path, photos, saved_model, picture, monkeypatch):
    monkeypatch.setattr("anchorage_components.beam.embedding._BATCH", 4)
    jpeg = picture(9, "JPEG", side=200)
    bad = {
        "cut.jpg": (jpeg[: len(jpeg) // 2], "E_IMAGE_TRUNCATED"),
        "empty.png": (b"", "E_IMAGE_EMPTY"),
        "page.jpg": (b"<html>not found</html>", "E_IMAGE_FORMAT"),
        "bomb.png": (bomb(8_000), "E_IMAGE_TOO_LARGE"),
    }
    for name, (data, _) in bad.items():
        (photos / name).write_bytes(data)
    output = tmp_path / "table.parquet"
    assert embed_files([photos], saved_model, output) == (5, 4, 0)
    assert len(read_table(output)) == 5
    letters = {letter["path"].rsplit("/", 1)[1]: letter for letter in dead_letters(output)}
    assert {name: letter["code"] for name, letter in letters.items()} == {name: code for name, (_, code) in bad.items()}
    assert "3c 68 74 6d 6c" in letters["page.jpg"]["message"]
    assert letters["cut.jpg"]["id"] == letters["cut.jpg"]["path"] == f"{photos}/cut.jpg"


def test_all_bad_is_an_error_and_keeps_the_old_table(tmp_path, saved_model):
    (tmp_path / "bad.png").write_bytes(b"nothing")
    output = tmp_path / "table.parquet"
    output.write_bytes(b"the table of last week")
    with pytest.raises(
        DataError, match=r"E_NO_IMAGES: .* Received: 1 E_IMAGE_FORMAT\. First: .*bad\.png: Expected JPEG"
    ):
        embed_files([tmp_path / "bad.png"], saved_model, output)
    assert output.read_bytes() == b"the table of last week"
    assert len(dead_letters(output)) == 1
    assert not list(tmp_path.glob(".tmp-*"))


def test_dead_letters_of_an_earlier_run_are_removed(tmp_path, photos, saved_model):
    output = tmp_path / "table.parquet"
    (tmp_path / "table.parquet.rejects.jsonl").write_text("{}")
    embed_files([photos / "a.png"], saved_model, output)
    assert dead_letters(output) is None


def test_a_folder_of_shards_is_resumed_where_it_ended(tmp_path, photos, saved_model, monkeypatch, export_encoder):
    monkeypatch.setattr("anchorage_components.beam.bulk._SHARD", 2)
    (photos / "bad.png").write_bytes(b"no image")
    folder = tmp_path / "table"
    assert embed_files([photos], saved_model, folder) == (5, 1, 0)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / "vectors-00001.parquet").unlink()
    (folder / ".tmp-vectors-00001.parquet-killed").write_bytes(b"half a file")
    written = (folder / "vectors-00000.parquet").stat().st_mtime_ns
    assert embed_files([photos], saved_model, folder) == (5, 1, 4)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert (folder / "vectors-00000.parquet").stat().st_mtime_ns == written
    assert len(read_table(folder)) == 5
    (photos / "new.png").write_bytes(b"another image")
    with pytest.raises(UsageError, match=r"E_OUTPUT_EXISTS: .* `inputs` of 7 instead of 6"):
        embed_files([photos], saved_model, folder)
    (photos / "new.png").unlink()
    with pytest.raises(UsageError, match=r"E_OUTPUT_EXISTS: .* `model_fingerprint` of"):
        embed_files([photos], export_encoder(1), folder)


def test_named_twice_is_embedded_once(tmp_path, photos, saved_model):
    output = tmp_path / "table.parquet"
    assert embed_files([photos, photos / "a.png", photos / "z"], saved_model, output) == (5, 0, 0)


def test_f10_two_names_that_fall_together_are_reported(tmp_path, photos, saved_model, picture):
    (photos / "caf\u00e9.png").write_bytes(picture(5))
    (photos / "cafe\u0301.png").write_bytes(picture(6))
    output = tmp_path / "table.parquet"
    assert embed_files([photos], saved_model, output) == (6, 1, 0)
    (letter,) = dead_letters(output)
    assert letter["code"] == "E_ID_DUPLICATE"
    assert f"{photos}/caf\u00e9.png" in read_table(output).ids


def test_batch_with_a_bad_image_answers_the_others_in_order(saved_model, picture, embed_exactly):
    good = [picture(seed) for seed in range(3)]
    batch = [wrap(good[0], "0"), wrap(good[1][:40], "bad"), wrap(good[1], "1"), wrap(good[2], "2")]
    kept, vectors, [reject] = embed_batch(batch, tf.saved_model.load(saved_model))
    assert reject == Reject("bad.png", "bad", "E_IMAGE_TRUNCATED", reject.message, "test")
    assert [item.id for item in kept] == ["0", "1", "2"]
    np.testing.assert_allclose(vectors, embed_exactly(good), atol=1e-6)


def test_fault_of_the_model_is_not_blamed_on_the_image(picture):
    def out_of_memory(images):
        raise tf.errors.ResourceExhaustedError(None, None, "out of memory")

    class Model:
        signatures = {"serving_default": out_of_memory}  # noqa: RUF012

    with pytest.raises(tf.errors.ResourceExhaustedError):
        embed_batch([wrap(picture(0))], Model())


def test_embedding_size_is_read_from_the_signature(saved_model, tmp_path):
    assert embedding_size(saved_model) == 5
    with pytest.raises(DataError, match=r"E_MODEL_SIGNATURE: .* no saved_model.pb"):
        embedding_size(str(tmp_path))
    other = tf.Module()
    other.run = tf.function(lambda images: {"embeddings": images}, input_signature=[tf.TensorSpec([None, 2])])
    tf.saved_model.save(other, str(tmp_path), signatures={"predict": other.run})
    with pytest.raises(DataError, match=r"E_MODEL_SIGNATURE: .* 'serving_default' .* Received: .*'predict'"):
        embedding_size(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"images": ["absent.png"]}, UsageError, r"E_IMAGE_MISSING: .* absent\.png"),
        ({"images": ["."]}, DataError, r"E_NO_IMAGES: .* no image file"),
        ({"images": ["photos"], "beam_args": ["--runer=DirectRunner"]}, UsageError, "E_BEAM_OPTION: .* --runer"),
        ({"images": ["https://photos/a.png"]}, UsageError, r"E_ADDRESS: .* https://photos/a\.png"),
        ({"images": ["photos"], "model_folder": "nowhere"}, DataError, "E_MODEL_SIGNATURE: .* nowhere"),
    ],
)
def test_rejects_wrong_use_before_anything_runs(tmp_path, photos, saved_model, monkeypatch, arguments, error, message):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(photos.parent if arguments["images"] == ["photos"] else work)
    with pytest.raises(error, match=message):
        embed_files(**{"model_folder": saved_model, "output": tmp_path / "out/t.parquet", **arguments})
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_any_local_runner_of_beam(tmp_path, photos, saved_model):
    output = tmp_path / "table.parquet"
    arguments = ["--runner=DirectRunner", "--direct_running_mode=multi_threading", "--direct_num_workers=2"]
    assert embed_files([photos], saved_model, output, arguments) == (5, 0, 0)
