"""A calibration checked on classes that had no part in it: it holds, or report and gate say that it does not."""

import json

import numpy as np
import pytest
from tables import clusters, join

from anchorage.judging.calibration_check import calibrate_and_check, draw_classes
from anchorage.judging.settings import JudgeSettings
from anchorage.retrieval.calibration import match_probability, sample_neighbors
from anchorage.retrieval.table import Embeddings


@pytest.fixture(scope="module")
def splits():
    return {split: clusters(1.1, 30, 8, split=split, seed=seed) for seed, split in enumerate(("train", "val", "test"))}


@pytest.fixture(scope="module")
def check():
    def call(splits, **settings):
        return calibrate_and_check(splits["test"], splits["val"], join(*splits.values()), JudgeSettings(**settings))

    return call


def test_what_is_checked_is_the_released_gallery_on_the_test_classes(check, splits):
    found = check(splits, seed=3)
    checked = found["check"]
    assert (found["split"], found["queries"], found["classes"], found["gallery"]) == ("val", 240, 30, 720)
    assert (checked["split"], checked["queries"], checked["classes"], checked["gallery"]) == ("test", 240, 30, 720)
    shown = sample_neighbors(splits["test"], join(*splits.values()))
    chances = match_probability(found["probability"], shown.similarities, shown.labels)
    said = checked["probability"]
    assert said["predicted"]["value"] == pytest.approx(chances.mean())
    assert said["observed"]["value"] == pytest.approx(shown.hits.mean())
    assert said["brier"] == pytest.approx(((chances - shown.hits) ** 2).mean())
    by_hand = 0.0
    for low in np.arange(10) / 10:
        held = (chances >= low) & (chances < low + 0.1 if low < 0.9 else True)
        by_hand += abs(chances[held].sum() - shown.hits[held].sum()) / chances.size
    assert said["error"]["value"] == pytest.approx(by_hand)
    unknown = checked["unknown"]
    threshold = found["unknown"]["threshold"]
    assert unknown["false_accept"]["value"] == pytest.approx((shown.nearest_other >= threshold).mean())
    assert unknown["answered"]["value"] == pytest.approx((shown.similarities[:, 0] >= threshold).mean())
    for entry in (said["error"], said["predicted"], said["observed"], unknown["false_accept"], unknown["answered"]):
        assert entry["low"] <= entry["value"] <= entry["high"]
    assert said["observed"]["high"] - said["observed"]["low"] > 0.02
    curve = checked["risk_coverage"]
    assert curve["coverage"][-1] == 1
    assert curve["error"][-1] == pytest.approx(1 - shown.hits[:, 0].mean())
    json.dumps(found, allow_nan=False)


def test_a_calibration_that_holds_is_marked_so(check, splits):
    found = check(splits, max_calibration_error=0.08, require_calibration=True)
    assert found["check"]["probability"]["holds"]
    assert found["check"]["probability"]["statement"].startswith("Holds: the calibration error is 0.0")
    assert found["check"]["unknown"]["statement"].startswith("Holds: ")
    assert found["faults"] == []


def test_a_calibration_that_does_not_hold_is_a_fault_where_it_is_required(check, splits):
    test = clusters(0.2, 30, 8, split="test", seed=2)
    shuffled = np.random.default_rng(0).permutation(test.labels)  # no neighbour is right but by luck
    wrong = {**splits, "test": Embeddings(test.ids, shuffled, test.roles, test.splits, test.vectors)}
    found = check(wrong)
    assert not found["check"]["probability"]["holds"]
    assert found["check"]["probability"]["statement"].startswith("Does not hold: ")
    assert "Search shows no match probability." in found["check"]["probability"]["statement"]
    assert not found["check"]["unknown"]["holds"]  # images of "other" classes lie as near as the own ones did
    assert found["faults"] == []
    faults = check(wrong, require_calibration=True)["faults"]
    assert [fault.partition(":")[0] for fault in faults] == ["Does not hold"] * 2


def test_nothing_to_fit_or_to_check_has_a_reason(check, splits):
    few = {**splits, "val": clusters(0.9, 4, 8, split="val")}
    found = check(few)
    assert set(found) == {"split", "reason", "faults"}
    assert "4 classes of 32 queries are too few" in found["reason"]
    assert found["faults"] == []
    assert check(few, require_calibration=True)["faults"] == [f"No match probability: {found['reason']}."]
    none = calibrate_and_check(splits["test"], None, join(*splits.values()), JudgeSettings())
    assert none["split"] == "val"
    assert none["reason"] == "there are no embeddings of split 'val' to fit a match probability"
    unasked = calibrate_and_check(splits["test"], splits["val"], join(splits["train"], splits["val"]), JudgeSettings())
    assert unasked["split"] == "test"
    assert "no query of split 'test' has another image of its class in the index" in unasked["reason"]


def test_whole_classes_are_drawn():
    codes, columns = np.array([7, 7, 3]), np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 5.0]])
    drawn = {tuple(row) for row in draw_classes(codes, columns, draws=200)}
    assert drawn == {(6, 0), (3, 5), (0, 10)}
