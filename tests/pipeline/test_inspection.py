import pytest
from PIL import Image

from anchorage.errors import DataError, UsageError
from anchorage_pipeline import inspection
from anchorage_pipeline.cli import main
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.inspection import check_listing, inspect_data


@pytest.fixture
def classes(tmp_path, monkeypatch):
    """Writes so many classes of so many images each, and gives the settings of an experiment on them."""
    monkeypatch.chdir(tmp_path)

    def write(number, images=2, **sections):
        for label in range(number):
            folder = tmp_path / f"images/c{label:03}"
            folder.mkdir(parents=True)
            for place in range(images):
                Image.new("RGB", (4, 4), (label, place, 0)).save(folder / f"{place}.png")
        sampler = {"name": "class_batches", "params": {"classes": 2, "per_class": 2}}
        document = {"name": "toy", "data": {"path": "images"}, "loss": {"name": "contrastive"}}
        return Experiment.model_validate(document | {"training": {"sampler": sampler}} | sections)

    return write


def spoil(tmp_path, *names):
    for name in names:
        (tmp_path / "images" / name).write_text("no image")


def test_the_contents_of_the_data_are_shown(classes, tmp_path):
    experiment = classes(10)
    spoil(tmp_path, "c000/1.png", "notes.txt")
    data, split, single, rejects, *_ = inspect_data(experiment)
    assert data == f"data     19 images of 10 classes in {tmp_path}/images (other files: 1); all decoded"
    # Half of ten classes are tested; 15 % of the other five, at least one, validate.
    assert [part.split(" / ")[1] for part in split.partition(": ")[2].split(", ")] == ["4", "1", "5"]
    assert single == "single   classes with one image: 1 (c000)"
    assert rejects.startswith("rejects  1 E_IMAGE_FORMAT: c000/1.png: Expected JPEG")


def test_images_that_a_run_will_reject_are_an_error_as_there(classes, tmp_path):
    experiment = classes(6)
    spoil(tmp_path, *(f"c{label:03}/{place}.png" for label in range(6) for place in range(2)))
    with pytest.raises(
        DataError, match=r"E_TOO_MANY_REJECTS: Expected at most 10 bad records of 12. Received: 12 E_IM"
    ):
        inspect_data(experiment)


def test_of_many_images_some_are_opened(classes, tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "_SAMPLE", 10)
    experiment = classes(20)
    assert "; 10 decoded" in inspect_data(experiment)[0]
    spoil(tmp_path, *(f"c{label:03}/0.png" for label in range(20)))  # every other image, and all ten that are opened
    with pytest.raises(DataError, match=r"Received: 10 bad in a sample of 10, so about 40: 10 E_IMAGE_FORMAT"):
        inspect_data(experiment)


def test_files_that_are_missing_or_empty_are_found_without_opening(classes, tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "_SAMPLE", 1)
    experiment = classes(6, data={"path": "images/table.csv"})
    (tmp_path / "images/c001/0.png").write_bytes(b"")
    rows = [f"c{label:03}/{place}.png,{label}" for label in range(6) for place in range(3)]
    (tmp_path / "images/table.csv").write_text("path,label\n" + "\n".join(rows))
    rejects = [line for line in inspect_data(experiment) if line.startswith("rejects")]
    assert len(rejects) == 1
    assert rejects[0].startswith("rejects  6 E_IMAGE_MISSING, 1 E_IMAGE_EMPTY: c000/2.png")


@pytest.mark.parametrize(
    ("number", "sections", "fault", "code"),
    [
        (6, {}, UsageError, "E_TOO_FEW_CLASSES"),  # one of six classes is left to train on
        (1, {}, DataError, "E_SPLIT_EMPTY"),
        (8, {"evaluation": {"leave_out": "camera"}}, DataError, "E_TABLE_COLUMNS"),
        (8, {"data": {"path": "elsewhere"}}, UsageError, "E_DATA_MISSING"),
    ],
)
def test_data_that_a_run_cannot_use_is_refused_before_it(classes, number, sections, fault, code):
    sampler = {"name": "class_batches", "params": {"classes": 3, "per_class": 2}}
    experiment = classes(number, training={"sampler": sampler}, **sections)
    with pytest.raises(fault, match=code):
        check_listing(experiment)


def test_the_run_command_refuses_it_before_anything_runs(classes, tmp_path, capsys):
    classes(8)
    (tmp_path / "toy.toml").write_text(
        "name = 'toy'\n[data]\npath = 'images'\nimage_size = 8\n[loss]\nname = 'contrastive'\n"
        "[encoder]\nname = 'small'\nparams = { widths = [4] }\n"
        "[training]\nsampler = { name = 'class_batches', params = { classes = 5, per_class = 2 } }\n"
    )
    for verb in ("check", "run"):
        assert main([verb, "toy.toml"]) == 2
        assert "E_TOO_FEW_CLASSES: Expected at least 5 different classes for a batch" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
