import shutil

import pytest
from PIL import Image

from anchorage_pipeline.config import Experiment
from anchorage_pipeline.inspection import inspect_data


@pytest.fixture
def cautions(tmp_path):
    """Writes images, all different, and gives the warnings of `anchorage check` about them."""
    drawn = 0

    def write(sizes, copies=(), side=96, trained=True, **data):
        nonlocal drawn
        for label, number in sizes.items():
            folder = tmp_path / "images" / label
            folder.mkdir(parents=True)
            for place in range(number):
                drawn += 1
                Image.new("RGB", (side, side + 9), (drawn % 256, drawn // 256, 0)).save(folder / f"{place}.png")
        for source, target in copies:
            shutil.copy(tmp_path / "images" / source, tmp_path / "images" / target)
        sampler = {"name": "class_batches", "params": {"classes": 2, "per_class": 2}}
        document = {"name": "toy", "data": {"path": str(tmp_path / "images"), **data}, "loss": {"name": "contrastive"}}
        document["training"] = {"sampler": sampler} if trained else {"epochs": 0}
        lines = inspect_data(Experiment.model_validate(document))
        return [line.removeprefix("warning  ") for line in lines if line.startswith("warning")]

    return write


def even(classes, images=2):
    return {f"c{label:03}": images for label in range(classes)}


def test_enough_classes_of_good_images_have_no_warning(cautions):
    # Of 60 classes 20 are tested; of the other 40, 20 validate.
    assert cautions(even(60), test_share=1 / 3, val_share=0.5) == []


def test_few_classes_are_cautioned_about(cautions):
    training, test, validation = cautions(even(8))
    assert training.startswith("few training classes, 3")
    assert test.startswith("4 test classes: the gate needs at least 5")
    assert validation.startswith("1 validation classes with several images: no choice among the epochs, as every ")
    assert "no match probabilities or likely matches, which need 15" in validation


@pytest.mark.parametrize(
    ("val_share", "expected"),
    [
        (14 / 40, "no match probabilities or likely matches, which need 15, and no report of unknown classes"),
        (16 / 40, "no report of unknown classes, which needs 19;"),
    ],
)
def test_few_validation_classes_are_cautioned_about(cautions, val_share, expected):
    (caution,) = cautions(even(60), test_share=1 / 3, val_share=val_share)
    assert caution.startswith(f"{val_share * 40:.0f} validation classes with several images: {expected}")


def test_images_much_smaller_than_the_network_wants(cautions):
    (caution,) = cautions(even(60), side=47, test_share=1 / 3, val_share=0.5)
    assert caution.startswith("the shorter side of the images is 47 pixels (median), much smaller than")


def test_a_class_that_dominates(cautions):
    split = {f"train/{name}": number for name, number in even(12).items()}
    split |= {f"val/v{name}": number for name, number in even(20).items()}
    split |= {f"test/t{name}": number for name, number in even(6).items()} | {"test/most": 13}
    (caution,) = cautions(split)  # 13 of 25 test images
    assert caution.startswith("class 'most' has 52 % of the test images")


def test_copies_and_shared_classes(cautions):
    split = {f"train/{name}": number for name, number in even(12).items()}
    split |= {f"val/v{name}": number for name, number in even(20).items()}
    split |= {f"test/t{name}": number for name, number in even(6).items()} | {"test/c000": 2}
    copies = [("train/c001/0.png", "train/c001/2.png"), ("train/c002/0.png", "test/tc002/2.png")]
    shared, copied = cautions(split, copies)
    assert shared == "1 class is in several splits, such as 'c000': this stops a run"
    assert copied.startswith("2 files are copies of others, such as train/c002/0.png of test/tc002/2.png; 1 of them in")
    assert copied.endswith("several splits, which stops a run")


def test_a_single_copy(cautions):
    split = {f"train/{name}": number for name, number in even(12).items()}
    split |= {f"val/v{name}": number for name, number in even(20).items()}
    split |= {f"test/t{name}": number for name, number in even(6).items()}
    (caution,) = cautions(split, [("train/c001/0.png", "train/c001/2.png")])
    assert caution == "1 file is a copy of another: train/c001/2.png of train/c001/0.png"


def test_copies_in_several_splits_make_results_too_good(cautions):
    copies = [("c000/0.png", f"c{number:03}/copy.png") for number in range(1, 40)]
    *_, caution = cautions(even(40), copies, block_on_leaks=False)
    assert caution.endswith("in several splits, which makes results too good")


def test_without_labels_there_are_no_results(cautions):
    copies = [("0.png", f"copy {number}.png") for number in range(40)]
    *_, caution = cautions({"": 40}, copies, trained=False, block_on_leaks=False)
    assert caution.endswith("in several splits")
