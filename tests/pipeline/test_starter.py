import csv
import json
import tomllib
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from anchorage.errors import AnchorageError
from anchorage_pipeline import step_time
from anchorage_pipeline.cli import main
from anchorage_pipeline.config import load_experiment
from anchorage_pipeline.inspection import inspect_data
from anchorage_pipeline.preflight import check_file
from anchorage_pipeline.schema import experiment_schema
from anchorage_pipeline.starter import choose_size, fit_epochs, start_experiment


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_images(folder, classes, images=4, side=48, start=0):
    for label in range(start, start + classes):
        (folder / f"c{label:02}").mkdir(parents=True, exist_ok=True)
        for place in range(images):
            pixel = (label, place, len(str(folder)))
            Image.new("RGB", (side, side + 20), pixel).save(folder / f"c{label:02}" / f"{place}.png")


def start(path, seconds=1.0, **options):
    """The document that is written, with a stub for the measured step."""
    summary = start_experiment(str(path), measure=lambda experiment, counts: seconds, **options).lines
    assert len(summary) <= 10
    file = summary[-2].removeprefix("written  ").removesuffix(", with the reason for each choice")
    return tomllib.loads(Path(file).read_text(encoding="utf-8")), summary


def test_a_folder_per_class_is_trained_on(folder):
    write_images(folder / "My photos", 12)
    document, summary = start("My photos")
    assert document["name"] == "my-photos"
    assert document["data"] == {"path": "My photos", "image_size": 64, "test_share": 0.5, "val_share": 0.4}
    assert document["encoder"] == {"name": "efficientnet_lite0", "weights": "imagenet"}
    assert document["loss"] == {"name": "multi_similarity"}
    # Of 12 classes, 6 are tested and 2 validate; 4 classes of 4 images are left to train on.
    assert document["training"] == {
        "sampler": {"name": "class_batches", "params": {"classes": 4, "per_class": 4}},
        "steps_per_epoch": 10,
        "epochs": 10,
    }
    assert summary[0] == "data     one folder per class in My photos: 48 images of 12 classes, 4 per class (median)"
    assert summary[-1] == "next     anchorage check my-photos.toml"


def test_the_file_passes_the_check_and_explains_each_value(folder):
    write_images(folder / "photos", 12)
    start("photos")
    assert load_experiment("photos.toml").loss.name == "multi_similarity"
    lines = inspect_data(check_file("photos.toml"))
    assert lines[0].startswith("data     48 images of 12 classes")
    rows = (folder / "photos.toml").read_text().splitlines()
    assert rows[0] == "#:schema experiment.schema.json"
    schema = json.loads((folder / "experiment.schema.json").read_text(encoding="utf-8"))
    assert schema == experiment_schema()
    jsonschema.validate(tomllib.loads("\n".join(rows)), schema)
    for key in ("path", "image_size", "test_share", 'name = "eff', 'name = "multi', "sampler", "steps_per", "epochs"):
        place = next(place for place, row in enumerate(rows) if row.startswith(key))
        assert rows[place - 1].startswith("# "), key
    assert all(len(row) <= 100 for row in rows)


@pytest.mark.parametrize(
    ("seconds", "minutes", "epochs"),
    [
        (2.0, 3, 5),  # 108 s for training, 20 s an epoch of ten steps
        (2.0, 10, 10),  # 18 would fit; the recipe trains 10
        (100.0, 1, 1),
    ],
)
def test_epochs_follow_the_measured_step_and_the_minutes(folder, seconds, minutes, epochs):
    write_images(folder / "photos", 12)
    assert start("photos", seconds, minutes=minutes)[0]["training"]["epochs"] == epochs
    assert fit_epochs(seconds * 10, minutes, 10) == epochs


@pytest.mark.thorough
def test_a_step_is_measured_and_the_plan_is_written_as_json(folder, monkeypatch, capsys):
    monkeypatch.setattr(step_time, "_TIMED", 2)
    write_images(folder / "photos", 8, side=20)
    assert main(["init", "photos", "--minutes", "1", "--json"]) == 0
    assert load_experiment("photos.toml").data.image_size == 32
    result = json.loads(capsys.readouterr().out)
    assert (result["file"], result["next"]) == ("photos.toml", "anchorage check photos.toml")
    assert result["data"]["splits"] == {
        "train": {"images": 12, "classes": 3},
        "val": {"images": 4, "classes": 1},
        "test": {"images": 16, "classes": 4},
    }
    assert result["data"]["class_sizes"] == {"min": 4, "median": 4, "max": 4, "single": 0}
    assert result["data"]["shorter_sides"] == {"min": 20, "median": 20, "max": 20, "opened": 32}
    assert result["machine"]["packed_bytes"] == 32 * 32 * 32 * 3
    plan = result["plan"]
    assert (plan["encoder"], plan["image_size"], plan["loss"]) == ("efficientnet_lite0", 32, "multi_similarity")
    assert plan["training_seconds"] == pytest.approx(plan["epochs"] * plan["steps_per_epoch"] * plan["step_seconds"])


@pytest.mark.parametrize(
    ("side", "gpus", "size"),
    [(8, 0, 32), (32, 0, 32), (33, 0, 64), (96, 0, 96), (500, 0, 96), (96, 1, 96), (150, 1, 160), (500, 1, 224)],
)
def test_image_size_follows_the_images_and_the_gpu(side, gpus, size):
    assert choose_size(side, gpus) == size


def test_folders_of_splits_are_kept(folder):
    write_images(folder / "photos/train", 6)
    write_images(folder / "photos/test", 4, start=6)
    document, summary = start("photos")
    assert document["data"] == {"path": "photos", "image_size": 64}
    # One of the six classes in train validates.
    assert "split    images / classes: train 20 / 5, val 4 / 1, test 16 / 4" in summary
    check_file("photos.toml")


def test_classes_in_several_splits_do_not_stop_a_run(folder):
    write_images(folder / "photos/train", 6)
    write_images(folder / "photos/test", 6)
    document, _ = start("photos")
    assert document["data"]["block_on_leaks"] is False
    assert "6 classes have images in several splits" in (folder / "photos.toml").read_text()
    assert any("6 classes are in several splits" in line for line in inspect_data(check_file("photos.toml")))


def write_table(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def test_a_table_may_name_its_columns_otherwise(folder):
    write_images(folder / "photos", 8)
    rows = [(f"photos/c{label:02}/{place}.png", f"c{label}") for label in range(8) for place in range(4)]
    write_table(folder / "list.csv", [("filename", "category"), *rows])
    document, summary = start("list.csv")
    assert document["data"]["columns"] == {"path": "filename", "label": "category"}
    assert summary[0].startswith("data     table of images with labels in list.csv: 32 images of 8 classes")
    check_file("list.toml")


def test_images_without_labels_are_not_trained_on(folder):
    write_images(folder / "photos", 1, images=12)
    document, summary = start("photos/c00", name="mine")
    assert document["training"] == {"epochs": 0}
    assert summary[0] == "data     folder of images without labels in photos/c00: 12 images"
    assert "12 of them without a label" in inspect_data(check_file("mine.toml"))[0]
    rows = [(f"photos/c00/{place}.png",) for place in range(12)]
    write_table(folder / "list.csv", [("path",), *rows])
    document, _ = start("list.csv")
    assert document["training"] == {"epochs": 0}
    assert document["data"] == {
        "path": "list.csv",
        "columns": {"label": "path"},
        "image_size": 64,
        "block_on_leaks": False,
    }
    assert "12 of them without a label" in inspect_data(check_file("list.toml"))[0]


@pytest.mark.parametrize(("classes", "images"), [(3, 4), (5, 4), (12, 1)])
def test_too_few_images_to_train_on(folder, classes, images):
    write_images(folder / "photos", classes, images)
    document, summary = start("photos")
    assert document["training"] == {"epochs": 0}
    assert "val 0" not in (folder / "photos.toml").read_text()
    assert summary[-3].startswith("plan     no training: a loss needs two training classes of two or more images")
    assert inspect_data(check_file("photos.toml"))[0].startswith(f"data     {classes * images} images")


def test_vectors_get_a_head(folder):
    vectors = np.random.default_rng(0).normal(size=(24, 5)).astype("float32")
    np.save(folder / "unlabelled.npy", vectors)
    table = {"embedding": list(vectors), "label": [str(row % 8) for row in range(24)]}
    parquet.write_table(pa.table(table), folder / "vectors.parquet")
    document, summary = start("vectors.parquet")
    assert document["data"] == {"path": "vectors.parquet", "input": "vectors", "test_share": 0.5}
    assert document["encoder"] == {"name": "head", "params": {"kind": "residual"}, "embedding_size": 5}
    # Of 8 classes 4 are tested and 1 validates; 3 classes of 3 vectors are left to train on.
    assert document["training"]["sampler"]["params"] == {"classes": 3, "per_class": 3}
    assert inspect_data(check_file("vectors.toml"))[0].startswith("data     24 vectors of 8 classes")
    assert summary[0].startswith("data     table of vectors with 5 numbers each in vectors.parquet: 24 vectors of 8 cl")
    assert summary[-3].endswith("10 steps of 1 s (measured): about 3.3 minutes")
    assert start("unlabelled.npy")[0]["training"] == {"epochs": 0}
    for file in ("vectors.toml", "unlabelled.toml"):
        assert "image" not in (folder / file).read_text().lower()
    assert inspect_data(check_file("unlabelled.toml"))[0].startswith("data     24 vectors")


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.0001, "a second"), (0.0074, "a second"), (0.0076, "2 seconds"), (0.3, "1.0 minutes")]
)
def test_the_time_of_the_training_is_written_in_words(folder, seconds, expected):
    table = {"vector": list(np.eye(24, dtype="float32")), "label": [str(row % 8) for row in range(24)]}
    parquet.write_table(pa.table(table), folder / "vectors.parquet")
    _, summary = start("vectors.parquet", seconds)  # 20 epochs of 10 steps
    assert summary[-3].endswith(f"(measured): about {expected}")


def test_few_classes_leave_two_to_validate_on(folder):
    vectors = np.random.default_rng(0).normal(size=(40, 5)).astype("float32")
    table = {"vector": list(vectors), "label": [str(row % 10) for row in range(40)]}
    parquet.write_table(pa.table(table), folder / "ten.parquet")
    document, _ = start("ten.parquet")
    assert document["data"]["val_share"] == 0.4
    # Of 10 classes 5 are tested; of the other 5, 2 validate.
    assert "val 8 / 2" in (folder / "ten.toml").read_text()


def test_images_outside_the_folders_of_classes_are_left_out(folder):
    write_images(folder / "photos", 8)
    for place in range(20):
        Image.new("RGB", (48, 48)).save(folder / f"photos/{place}.png")
    assert start("photos")[0]["data"]["max_rejects"] == 30
    check_file("photos.toml")


@pytest.mark.parametrize("name", ['a "quoted" \\ name', "ünï\tcode", "line\nbreak", "-dash", "100%"])
def test_odd_names_and_absolute_paths(folder, name):
    write_images(folder / name, 8)
    document, _ = start(folder / name, output="given.toml", name="odd")
    assert document["data"]["path"] == str(folder / name)
    assert load_experiment("given.toml").data.path == str(folder / name)


def test_no_file_is_overwritten(folder):
    write_images(folder / "photos", 8)
    (folder / "photos.toml").write_text("mine")
    with pytest.raises(AnchorageError, match=r"E_OUTPUT_EXISTS.*photos\.toml.*--output"):
        start("photos")
    assert (folder / "photos.toml").read_text() == "mine"
    start("photos", output="other.toml")
    assert load_experiment("other.toml").name == "photos"


@pytest.mark.parametrize(
    ("path", "options", "code"),
    [
        ("nowhere", {}, "E_DATA_MISSING"),
        ("notes.txt", {}, "E_DATA_MISSING"),
        ("empty", {}, "E_DATA_EMPTY"),
        ("two", {}, "E_TOO_FEW_CLASSES"),
        ("broken", {}, "E_NO_IMAGES"),
        ("columns.csv", {}, "E_TABLE_COLUMNS"),
        ("parts", {}, "E_DATA_LAYOUT"),
        ("two", {"name": "No Name"}, "E_EXPERIMENT"),
        ("two", {"output": "no/folder.toml"}, "E_OUTPUT_PLACE"),
        ("\udcff", {}, "E_PATH_ENCODING"),
    ],
)
def test_rejects_unusable_data(folder, path, options, code):
    (folder / "notes.txt").write_text("no images")
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken/1.png").write_text("no image")
    (folder / "columns.csv").write_text("a,b\n1,2\n")
    write_images(folder / "two", 2)
    write_images(folder / "parts/train", 2)
    write_images(folder / "parts/valid", 2)
    with pytest.raises(AnchorageError, match=code):
        start(path, **options)
    assert not list(folder.glob("*.toml"))


def test_rejects_a_folder_above_the_class_folders(folder):
    write_images(folder / "download/images", 8)
    with pytest.raises(AnchorageError, match="give download/images"):
        start("download")
