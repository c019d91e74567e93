import json

import numpy as np
import pytest
from tables import clusters, join

from anchorage.errors import DataError, UsageError
from anchorage.judging.calibration_check import calibrate_and_check
from anchorage.judging.judge import identify_set, judge_candidate
from anchorage.judging.settings import JudgeSettings

EXPERIMENT = {
    "name": "icons",
    "seed": 7,
    "data": {"path": "data/icons/manifest.csv", "image_size": 64, "fit": "crop"},
    "encoder": {"name": "small", "params": {}, "embedding_size": 12, "pooling": "gem", "weights": None},
    "loss": {"name": "contrastive", "params": {"margin": 0.5}},
    "training": {"epochs": 3, "precision": "float32", "sampler": {"name": "class_batches", "params": {"classes": 8}}},
}


@pytest.fixture
def judge():
    def call(candidate, baseline=None, settings=None, **changes):
        values = {"metrics": ["recall@1", "recall@2"], "minimum": {"map@r": 0.1}, "max_drop": 0.01, "resamples": 200}
        arguments = {
            "settings": JudgeSettings(**{**values, "slices": [], **(settings or {})}),
            "baseline": baseline,
            "baseline_facts": {"version": baseline and 3, "reason": "Because."},
            "context": {"facts": {"experiment": EXPERIMENT, "run_key": "abc", "limits": ["Only icons."]}},
        }
        return judge_candidate(candidate, **{**arguments, **changes})

    return call


def test_a_first_release_has_no_baseline(judge):
    report = judge(clusters(0.4))
    assert report["verdict"]["state"] == "FIRST"
    assert report["baseline"]["name"] is None
    assert list(report["metrics"]) == ["recall@1", "recall@2", "map@r"]
    assert report["headline"] == ["map@r", "recall@1"]
    assert "baseline" not in report["recall_curve"]
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_better_and_worse_than_the_baseline(judge):
    good, bad = clusters(0.3), clusters(3.0)
    report = judge(good, bad)
    assert report["verdict"]["state"] == "SHIP"
    assert report["baseline"]["name"] == "release 3"
    assert report["baseline"]["common_queries"] == 30
    assert report["metrics"]["map@r"]["difference"] > 0.1
    assert report["recall_curve"]["baseline"][0] == pytest.approx(report["metrics"]["recall@1"]["baseline"])
    assert report["classes"][0]["baseline"] is not None
    assert judge(bad, good)["verdict"]["state"] == "HOLD"
    assert judge(good, good)["verdict"]["state"] == "SHIP"


def test_a_candidate_no_better_than_untrained_ones_is_held(judge):
    good, bad = clusters(0.3), clusters(3.0)
    report = judge(good, untrained={"raw pixels": bad, "untrained network": good})
    assert (report["verdict"]["state"], report["verdict"]["case"]) == ("HOLD", "training_does_not_help")
    assert "is not better than the untrained network" in report["verdict"]["reasons"][0]
    assert [(entry["name"], entry["better"]) for entry in report["untrained"]] == [
        ("raw pixels", True),
        ("untrained network", False),
    ]
    for entry, table in zip(report["untrained"], (bad, good), strict=True):
        for name in ("recall@1", "map@r"):
            assert entry["metrics"][name]["candidate"] == pytest.approx(report["metrics"][name]["value"])
            assert entry["metrics"][name]["baseline"] == pytest.approx(judge(table)["metrics"][name]["value"])
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert judge(good, untrained={"raw pixels": bad})["verdict"]["state"] == "FIRST"
    assert "untrained" not in judge(good)


def test_only_images_of_both_sets_are_compared_and_a_difference_is_noted(judge):
    good, bad = clusters(0.3), clusters(3.0)
    facts = {"version": 3, "reason": "", "evaluation_set": "another"}
    report = judge(good, bad.select(range(5, 30)), baseline_facts=facts)
    assert report["baseline"]["common_queries"] == 25
    assert (report["baseline"]["only_candidate"], report["baseline"]["only_baseline"]) == (5, 0)
    assert report["recall_curve"]["queries"] == 25
    assert "5 have no embedding by release 3" in report["verdict"]["reasons"][-1]
    assert report["verdict"]["case"] == "changed_test_set"
    assert any("not those release 3 was published with" in reason for reason in report["verdict"]["reasons"])
    same = judge(good, bad, baseline_facts={**facts, "evaluation_set": identify_set(good)})
    assert same["verdict"]["case"] == "not_worse"


def test_evaluation_set_depends_on_images_and_labels_not_on_order_or_vectors():
    table = clusters(0.3)
    assert identify_set(table.select(range(29, -1, -1))) == identify_set(table)
    assert identify_set(clusters(2.0)) == identify_set(table)
    assert identify_set(table.select(range(29))) != identify_set(table)


def test_thresholds_come_from_validation_classes_or_not_at_all(judge):
    with_them = judge(clusters(0.3), validation=clusters(0.3, classes=15, split="val", seed=1))["thresholds"]
    assert with_them["split"] == "val"
    assert with_them["likely_match"]["false_accept"] <= 0.01
    few = judge(clusters(0.3), validation=clusters(0.3, split="val", seed=1))["thresholds"]
    reason = "6 classes of split 'val' with several images are 15 pairs of classes, 100 are needed"
    assert few == {"split": "val", "reason": reason}
    # From the eleventh class on there is one image each: no queries, so that the pairs are those of ten classes.
    single = clusters(0.3, classes=15, split="val", seed=1).select([*range(50), *range(50, 75, 5)])
    assert "10 classes of split 'val'" in judge(clusters(0.3), validation=single)["thresholds"]["reason"]
    without = judge(clusters(0.3))["thresholds"]
    assert without == {"split": "val", "reason": "there are no embeddings of split 'val' to choose them on"}


def test_the_identity_card_describes_model_and_limits(judge):
    report = judge(
        clusters(0.3), context={"facts": {"experiment": EXPERIMENT, "limits": ["Only icons."]}, "model": {"A": "b"}}
    )
    card = report["identity"]
    assert card["model"]["Loss"] == "contrastive (margin = 0.5)"
    assert card["model"]["Embedding"] == "12 numbers, unit length, gem pooling"
    assert card["model"]["A"] == "b"
    assert card["model"]["Seed"] == 7
    assert card["data"]["Source"] == "data/icons/manifest.csv"
    assert card["limits"][-1] == "Only icons."
    assert judge(clusters(0.3), context={})["experiment"] == "unnamed experiment"


def test_the_card_of_a_head_over_vectors_mentions_no_pixels(judge):
    experiment = {**EXPERIMENT, "data": {"path": "shop.parquet", "input": "vectors", "image_size": 96}}
    experiment["encoder"] = {"name": "head", "params": {"kind": "residual"}, "pooling": "gem"}
    card = judge(clusters(0.3), context={"facts": {"experiment": experiment}})["identity"]
    assert (card["model"]["Input"], card["model"]["Embedding"]) == ("the given vectors", "12 numbers, unit length")
    assert card["model"]["Encoder"] == "head (kind = residual)"
    assert "Start weights" not in card["model"]
    assert card["limits"][1] == "Not evaluated on other vectors, of other models or items, than those of the data set."


def test_the_card_has_the_spread_over_seeds_and_what_the_intervals_cover(judge):
    found = {"mean": 0.469, "deviation": 0.004, "lowest": 0.464, "highest": 0.475}
    spread = {"metrics": {"map@r": found}, "seeds": [1, 2], "machines": 1, "trainings": 2, "same_code": True}
    facts = {"experiment": EXPERIMENT}
    report = judge(clusters(0.3), context={"facts": facts, "spread": spread})
    assert report["spread"] == spread
    card = report["identity"]
    assert card["model"]["Spread over seeds"] == "MAP@R 46.9 ± 0.4 (46.4 to 47.5) over 2 seeds on 1 machine"
    assert any("mean ± standard deviation" in limit for limit in card["limits"])
    alone = judge(clusters(0.3), context={"facts": facts, "spread": {}})
    assert "spread" not in alone
    expected = "One training, seed 7. The spread over seeds is not measured: `anchorage spread FILE`"
    assert alone["identity"]["model"]["Spread over seeds"] == expected
    for one in (card, alone["identity"]):
        covered = "The 95 % confidence intervals cover the choice of test classes, not the seed of the training."
        assert covered in one["limits"]


def test_split_rule_is_what_the_audit_found(judge):
    def rule(**context):
        return judge(clusters(0.3), context=context)["identity"]["data"].get("Split rule")

    assert rule() is None
    assert rule(audit={"leaks": {"count": 0}}) == "by class: splits share no class"
    assert rule(audit={"leaks": {"count": 3}}) == "3 classes are in several splits"


def test_settings_that_a_tuner_chose_replace_the_ranges(judge):
    searched = {
        **EXPERIMENT,
        "loss": {"name": "contrastive", "params": {"margin": {"low": 0.05, "high": 0.5, "log": True}}},
    }
    report = judge(clusters(0.3), context={"facts": {"experiment": searched}})
    assert report["identity"]["model"]["Loss"] == "contrastive (margin = 0.05 to 0.5)"
    history = {"settings": {"loss": EXPERIMENT["loss"]}, "best_epoch": 1, "epochs": []}
    report = judge(clusters(0.3), context={"facts": {"experiment": searched}, "training": history})
    assert report["identity"]["model"]["Loss"] == "contrastive (margin = 0.5)"
    assert report["training"] == history


def test_release_without_embeddings_is_not_passed_over(judge):
    with pytest.raises(DataError, match=r"E_BASELINE_MISSING.*release 3"):
        judge(clusters(0.3), baseline_facts={"version": 3, "reason": ""})


def test_empty_and_hopeless_splits(judge):
    with pytest.raises(DataError, match="E_SPLIT_EMPTY"):
        judge(clusters(0.3).select([]))
    with pytest.raises(DataError, match="E_NO_RELEVANT"):
        judge(clusters(0.3, per_class=1))
    with pytest.raises(UsageError, match="E_METRIC_UNKNOWN"):
        judge(clusters(0.3), settings={"metrics": ["recall"]})


def test_release_with_hardly_a_common_image_holds(judge):
    report = judge(clusters(0.3), clusters(0.3).select([0, 7, 13]))
    assert (report["verdict"]["state"], report["verdict"]["case"]) == ("HOLD", "too_few_common")
    assert "compatibility" not in report
    nothing = judge(clusters(0.3), clusters(0.3, split="other"))
    assert nothing["verdict"]["case"] == "too_few_common"


def test_no_baseline_though_there_were_releases(judge):
    facts = {"version": None, "first": False, "reason": "Release 1 is gone."}
    assert judge(clusters(0.3), baseline_facts=facts)["verdict"]["case"] == "no_baseline"


def test_index_trial_is_part_of_the_verdict(judge):
    report = judge(clusters(0.3), index_trial={"faults": ["Too slow."]})
    assert (report["verdict"]["state"], report["verdict"]["reasons"][0]) == ("HOLD", "Too slow.")
    assert report["index_trial"] == {"faults": ["Too slow."]}


def test_a_broken_promise_of_the_calibration_holds_the_candidate(judge):
    report = judge(clusters(0.3), calibration={"split": "val", "reason": "few", "faults": ["Does not hold."]})
    assert (report["verdict"]["state"], report["verdict"]["case"]) == ("HOLD", "calibration")
    assert report["verdict"]["reasons"][0] == "Does not hold."
    assert judge(clusters(0.3), calibration={"split": "val", "faults": []})["verdict"]["state"] == "FIRST"
    assert judge(clusters(0.3))["calibration"] == {"split": "val", "reason": "no match probability was fitted"}


def test_what_the_report_can_draw(judge):
    good, bad = clusters(0.5, classes=12, per_class=6), clusters(1.5, classes=12, per_class=6)
    validation = clusters(0.9, 20, 8, split="val", seed=1)
    calibration = calibrate_and_check(good, validation, join(good, validation), JudgeSettings())
    report = judge(
        good,
        bad,
        {"slices": ["confused", "class_size"], "clustering": True},
        validation=validation,
        calibration=calibration,
    )
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["comparison"]["metrics"]["map@r"]["low"] > 0
    assert [entry["name"] for entry in report["comparison"]["slices"]] == ["confused", "class_size=6"]
    cells = report["compatibility"]["cells"]
    assert cells["new"]["new"] == pytest.approx(report["metrics"]["map@r"]["value"])
    assert cells["old"]["old"] == pytest.approx(report["metrics"]["map@r"]["baseline"])
    assert report["changed"]["improved"][0]["map@r"] > report["changed"]["improved"][0]["before"]["map@r"]
    assert report["growth"]["recall@1"] == sorted(report["growth"]["recall@1"], reverse=True)
    assert report["growth"]["recall@1"][-1] == pytest.approx(report["metrics"]["recall@1"]["value"])
    assert 0 < report["verification"]["equal_error"]["rate"] < 0.3
    assert 1 < report["space"]["effective_rank"] <= 12
    assert report["space"]["hubness"]["hubs"][0]["id"].startswith("test/")
    assert len(report["map"]["x"]) == len(report["map"]["ids"]) == 72
    assert report["clustering"]["nmi"] > 0.5
    assert report["calibration"] == calibration


def test_groups_and_parents_change_the_evaluation(judge):
    table = clusters(0.6, classes=6, per_class=6)
    table.columns["family"] = np.array([f"family {n % 3}" for n in range(36)], object)
    table.columns["kind"] = np.array(["low" if label[-1] in "012" else "high" for label in table.labels], object)
    graded = {"metrics": ["recall@1", "graded_ndcg@5"], "parents": "kind"}
    plain = judge(table, settings=graded)
    apart = judge(table, settings={**graded, "leave_out": "family", "slices": ["family"]})
    assert plain["metrics"]["recall@1"]["convention"].endswith("a query never meets itself")
    assert apart["metrics"]["recall@1"]["convention"].endswith("nor anything of its own family")
    assert apart["verification"]["pairs"]["same_class"] == 36 * 4
    assert plain["verification"]["pairs"]["same_class"] == 36 * 5
    assert apart["recall_curve"]["candidate"][0] == pytest.approx(apart["metrics"]["recall@1"]["value"])
    with pytest.raises(UsageError, match=r"E_COLUMN: Expected a column 'camera' .* Received: \['family', 'kind'\]"):
        judge(table, settings={"leave_out": "camera"})
