"""The states of the gate, each with its reason in words."""

import numpy as np
import pytest

from anchorage.errors import UsageError
from anchorage.judging.gate import Comparison, StatisticalGate, UntrainedBaseline, points
from anchorage.judging.settings import JudgeSettings

LABELS = np.repeat(np.arange(40), 5)


def compare(change=0.0, spread=0.0, slices=None, **changes):
    """A candidate that differs by `change`, and from class to class by `spread`, from a baseline at 0.4 MAP@R."""
    rng = np.random.default_rng(0)
    difference = change + spread * rng.normal(size=40)
    candidate = 0.4 + (difference - difference.mean() + change)[LABELS]
    for mask, loss in (slices or {}).values():
        candidate[mask] -= loss
    per_query = {"map@r": (candidate, np.full(200, 0.4)), "recall@1": (np.full(200, 0.9), np.full(200, 0.9))}
    metrics = {name: float(pair[0].mean()) for name, pair in per_query.items()}
    arguments = {
        "metrics": metrics,
        "common": metrics,
        "baseline": {"map@r": 0.4, "recall@1": 0.9},
        "baseline_name": "release 3",
        "common_queries": 200,
        "per_query": per_query,
        "query_labels": LABELS,
        "first": False,
        "slices": {name: mask for name, (mask, _) in (slices or {}).items()},
    }
    return Comparison(**{**arguments, **changes})


def first(**changes):
    return Comparison({"map@r": 0.45, "recall@1": 0.9}, **changes)


def gate(minimum=None, drop=0.02, **settings):
    return StatisticalGate(JudgeSettings(minimum=minimum or {}, max_drop=drop, **settings))


def test_a_first_model_above_its_floor_passes():
    verdict = gate({"map@r": 0.4}).judge(first())
    assert (verdict.state, verdict.case, verdict.blessed) == ("FIRST", "first_run", True)
    assert verdict.reasons == (
        "MAP@R is 45.0 %, at or above its floor of 40 %.",
        "There is no earlier release to compare with.",
    )
    assert verdict.evidence == {}


def test_no_baseline_is_not_a_first_run():
    verdict = gate().judge(first(first=False, baseline_reason="Release 2 is no longer there."))
    assert (verdict.state, verdict.case) == ("FIRST", "no_baseline")
    assert verdict.reasons == (
        "No baseline, although there are earlier releases: Release 2 is no longer there. Only the floors were checked.",
    )


@pytest.mark.parametrize("value", [0.39, float("nan")])
def test_holds_a_model_below_its_floor(value):
    verdict = gate({"map@r": 0.4}).judge(Comparison({"map@r": value}))
    assert (verdict.state, verdict.case, verdict.blessed) == ("HOLD", "below_floor", False)
    assert "below its floor of 40 %" in verdict.reasons[0]
    assert gate({"map@r": 0.9}).judge(compare(0.1)).case == "below_floor"


def test_equal_and_better_models_ship():
    equal = gate().judge(compare())
    assert (equal.state, equal.case) == ("SHIP", "not_worse")
    assert equal.reasons[0] == (
        "MAP@R ±0.0 points against release 3 on the same 200 queries of 40 classes, with 95 % confidence at worst ±0.0 "
        "(a loss of up to 2 points is allowed)."
    )
    better = gate().judge(compare(0.05, spread=0.1))
    assert better.state == "SHIP"
    entry = better.evidence["metrics"]["map@r"]
    assert entry["difference"] == pytest.approx(0.05)
    assert entry["low"] < better.evidence["lower_bound"] < 0.05 < entry["high"]


def test_the_bound_decides_not_the_mean():
    # spread 0.1 over 40 classes: standard error 0.016, so a mean of -0.01 may be -0.036
    verdict = gate().judge(compare(-0.01, spread=0.1))
    assert (verdict.state, verdict.case) == ("HOLD", "worse")
    assert "MAP@R −1.0 points against release 3" in verdict.reasons[0]  # noqa: RUF001
    assert "worse than allowed (a loss of up to 2 points is allowed)" in verdict.reasons[0]
    assert gate(drop=0.06).judge(compare(-0.01, spread=0.1)).state == "SHIP"
    assert gate(confidence=0.5).judge(compare(-0.01, spread=0.1)).state == "SHIP"
    assert gate().judge(compare(-0.02)).state == "SHIP"  # a drop of exactly what is allowed
    assert gate().judge(compare(-0.0201)).state == "HOLD"


def test_nothing_measured_is_never_good_enough():
    per_query = {"map@r": (np.full(200, np.nan), np.full(200, 0.4))}
    assert gate().judge(compare(per_query=per_query)).state == "HOLD"


def test_worse_on_one_slice():
    lost = np.isin(LABELS, range(8))
    spared = ~lost
    slices = {"family=fluent": (lost, 0.2), "family=lucide": (spared, -0.05)}
    comparison = compare(0.03, slices=slices)
    verdict = gate().judge(comparison)
    assert (verdict.state, verdict.case) == ("HOLD", "worse_on_slice")
    assert verdict.reasons[0].startswith(
        "Worse on the slice family=fluent: −17.0 points on 40 queries of 8 classes, where a loss of 5 is allowed "  # noqa: RUF001
    )
    worst, other = verdict.evidence["slices"]
    assert (worst["name"], worst["worse"], other["worse"]) == ("family=fluent", True, False)
    assert worst["p_holm"] == pytest.approx(2 * worst["p"])
    lax = {"": 0.05, "family": 0.3}
    assert gate(slice_drops=lax).judge(comparison).state == "SHIP"
    assert gate(slice_drops={**lax, "family=fluent": 0.1}).judge(comparison).case == "worse_on_slice"


def test_many_slices_need_a_clearer_loss():
    rng = np.random.default_rng(5)
    lost = np.isin(LABELS, range(10))
    noisy = {"a": (lost, 0.0)}
    per_class = rng.normal(-0.09, 0.07, 10)
    candidate = np.full(200, 0.45)
    candidate[lost] = 0.4 + per_class[LABELS[lost]]
    per_query = {"map@r": (candidate, np.full(200, 0.4))}
    alone = compare(per_query=per_query, metrics={"map@r": 0.44}, slices=noisy)
    crowd = {f"b{n}": np.isin(LABELS, range(10 + n, 40)) for n in range(20)}
    crowded = compare(per_query=per_query, metrics={"map@r": 0.44}, slices=noisy)
    crowded = Comparison(**{**crowded.__dict__, "slices": {**crowded.slices, **crowd}})
    one = gate().judge(alone).evidence["slices"][0]
    among = gate().judge(crowded).evidence["slices"][0]
    assert one["p"] == among["p"]
    assert 0.05 / 21 < one["p"] < 0.05
    assert one["worse"]
    assert not among["worse"]


def test_a_slice_of_few_classes_is_shown_and_not_judged():
    verdict = gate().judge(compare(0.05, slices={"rare": (np.isin(LABELS, range(4)), 0.4)}))
    (entry,) = verdict.evidence["slices"]
    assert verdict.state == "SHIP"
    assert not entry["judged"]
    assert entry["difference"] < -0.3
    assert entry["p"] is None


def test_a_changed_test_set_is_compared_on_common_images():
    verdict = gate().judge(compare(0.01, set_changed=True))
    assert (verdict.state, verdict.case) == ("SHIP", "changed_test_set")
    assert any("not those release 3 was published with; both models were evaluated again" in r for r in verdict.reasons)
    few = gate().judge(compare(0.01, set_changed=True, common_share=0.3))
    assert (few.state, few.case) == ("HOLD", "too_few_common")
    assert few.reasons[0] == (
        "Only 30 % of the queries were embedded by release 3, too few to compare (50 % are needed)."
    )


def test_index_that_breaks_a_limit_holds_the_model():
    trial = {"faults": ["99 % of searches take up to 9.00 ms; the limit is 5 ms."]}
    for comparison in (compare(0.05, index=trial), first(index=trial)):
        verdict = gate().judge(comparison)
        assert (verdict.state, verdict.case) == ("HOLD", "index")
        assert verdict.reasons[0] == trial["faults"][0]
    assert gate().judge(compare(0.05, index={"faults": []})).state == "SHIP"


def test_forced_names_what_was_overruled_and_why():
    verdict = gate({"map@r": 0.9}, force="labels were mended").judge(compare(-0.1))
    assert (verdict.state, verdict.case, verdict.blessed) == ("FORCED", "forced", True)
    assert verdict.reasons[0] == "Published by force, against the gate: labels were mended."
    assert "worse than allowed" in verdict.reasons[1]
    assert "below its floor" in verdict.reasons[2]
    assert gate(force="labels were mended").judge(compare(0.1)).state == "SHIP"  # no force was needed


def untrained(name="raw pixels", value=0.2, spread=0.0, classes=40):
    """A baseline with this MAP@R, off by `spread` from class to class, against a candidate at 0.3."""
    labels = np.repeat(np.arange(classes), 5)
    noise = spread * np.random.default_rng(1).normal(size=classes)
    per_query = {"map@r": (np.full(len(labels), 0.3), value + (noise - noise.mean())[labels])}
    return UntrainedBaseline(name, per_query, labels)


def test_a_model_worse_than_raw_pixels_is_not_a_first_release():
    verdict = gate({"map@r": 0.1}).judge(first(untrained=[untrained(value=0.5), untrained("untrained network")]))
    assert (verdict.state, verdict.case, verdict.blessed) == ("HOLD", "training_does_not_help", False)
    assert verdict.reasons == (
        "MAP@R 30.0 % is not better than the raw pixels, 50.0 %: difference −20.0 points, "  # noqa: RUF001
        "95 % interval −20.0 to −20.0, on 200 queries of 40 classes.",  # noqa: RUF001
        "MAP@R 30.0 % is better, with 95 % confidence, than the untrained network (20.0 %; +10.0 to +10.0 points).",
        "MAP@R is 45.0 %, at or above its floor of 10 %.",
        "There is no earlier release to compare with.",
    )
    pixels, network = verdict.untrained
    assert (pixels["name"], pixels["better"], network["better"]) == ("raw pixels", False, True)
    assert pixels["metrics"]["map@r"]["difference"] == pytest.approx(-0.2)


def test_a_model_better_than_all_baselines_is_a_first_release():
    verdict = gate().judge(first(untrained=[untrained(value=0.2, spread=0.1), untrained("untrained network", 0.25)]))
    assert (verdict.state, verdict.case) == ("FIRST", "first_run")
    assert verdict.reasons[0].startswith("MAP@R 30.0 % is better, with 95 % confidence, than the raw pixels (20.0 %; +")
    assert verdict.reasons[0].endswith(" points) and the untrained network (25.0 %; +5.0 to +5.0 points).")
    three = [untrained(name, 0.25) for name in ("raw pixels", "untrained network", "pretrained features")]
    reason = gate().judge(first(untrained=three)).reasons[0]
    assert " points), the untrained network (25.0 %; +5.0 to +5.0 points) and the pretrained features (" in reason
    entry = verdict.untrained[0]["metrics"]["map@r"]
    error = 1.96 * 0.1 / 40**0.5  # of a mean over 40 classes
    assert (entry["low"], entry["high"]) == pytest.approx((0.1 - error, 0.1 + error), abs=0.005)


def test_an_interval_that_reaches_zero_holds_and_few_classes_are_noted():
    # difference 1 point, spread 0.1 over 8 classes: standard error 3.5 points
    verdict = gate().judge(first(untrained=[untrained(value=0.29, spread=0.1, classes=8)]))
    assert verdict.case == "training_does_not_help"
    assert (
        "MAP@R 30.0 % is not significantly better than the raw pixels, 29.0 %: difference +1.0 points"
        in verdict.reasons[0]
    )
    assert verdict.reasons[0].endswith("of 8 classes. With so few classes the interval is wide: test on more classes.")
    entry = verdict.untrained[0]["metrics"]["map@r"]
    assert entry["low"] < 0 < entry["high"]
    assert gate().judge(first(untrained=[untrained(value=0.3)])).state == "HOLD"  # the very same answers
    rounding = gate().judge(first(untrained=[untrained(value=0.3 - 1e-6)]))
    assert rounding.state == "HOLD"
    assert rounding.reasons[0].startswith("MAP@R 30.0 % is not better than the raw pixels, 30.0 %: difference ±0.0")
    three = gate().judge(first(untrained=[untrained(value=0.1, classes=3)]))
    assert three.reasons[0].endswith("Fewer than 5 classes cannot show an improvement: test on more classes.")


def test_the_interval_is_of_the_confidence_asked_for():
    baseline = untrained(value=0.28, spread=0.1)  # standard error 1.6 points
    entry, narrow = (gate(confidence=level).judge(first(untrained=[baseline])).untrained[0] for level in (0.95, 0.5))
    assert (entry["level"], narrow["level"]) == (0.95, 0.5)
    assert not entry["better"]
    assert narrow["better"]
    assert entry["metrics"]["map@r"]["low"] < 0 < narrow["metrics"]["map@r"]["low"]


def test_a_later_release_must_beat_the_baselines_too():
    verdict = gate().judge(compare(0.05, untrained=[untrained(value=0.5)]))
    assert (verdict.state, verdict.case) == ("HOLD", "training_does_not_help")
    assert verdict.evidence["metrics"]["map@r"]["difference"] == pytest.approx(0.05)
    assert gate().judge(compare(0.05, untrained=[untrained()])).state == "SHIP"
    gone = gate().judge(first(first=False, baseline_reason="Release 2 is gone.", untrained=[untrained()]))
    assert "Only the floors and the baselines without training were checked." in gone.reasons[-1]


def test_force_overrules_the_baselines_and_is_noted():
    verdict = gate(force="a demonstration").judge(first(untrained=[untrained(value=0.5)]))
    assert (verdict.state, verdict.blessed) == ("FORCED", True)
    assert verdict.reasons[0] == "Published by force, against the gate: a demonstration."
    assert "is not better than the raw pixels, 50.0 %" in verdict.reasons[1]


def test_metric_that_was_not_measured():
    with pytest.raises(UsageError, match=r"needs \['ndcg@10'\]. Received metrics: \['map@r', 'recall@1'\]"):
        gate({"ndcg@10": 0.1}).judge(compare())


@pytest.mark.parametrize(
    "settings",
    [
        {"minimum": {"map@r": 40}},
        {"drop": -0.1},
        {"slice_drops": {"": 2}},
        {"confidence": 1.0},
        {"confidence": 0.1},
        {"resamples": 10},
    ],
)
def test_numbers_out_of_range(settings):
    with pytest.raises(UsageError, match=r"E_GATE: Expected"):
        gate(**settings)


def test_points_always_carry_a_sign():
    assert [points(x) for x in (0.012, 0.0, -0.3)] == ["+1.2", "±0.0", "−30.0"]  # noqa: RUF001
