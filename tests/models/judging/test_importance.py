import numpy as np

from anchorage.judging.importance import MIN_TRIALS, measure_importance

PATHS = ["a", "b", "kind"]


def trials_of(score, count=60):
    random = np.random.default_rng(0)
    rows = [{"a": random.random(), "b": 10 ** random.uniform(-3, 3), "kind": "xy"[row % 2]} for row in range(count)]
    return [{"values": values, "score": score(values, random)} for values in rows]


def test_what_the_score_depends_on_comes_first():
    found = measure_importance(trials_of(lambda v, _: np.log10(v["b"]) + 0.5 * (v["kind"] == "x")), PATHS)
    assert [each["path"] for each in found["settings"]] == ["b", "kind", "a"]
    assert found["r2"] > 0.8
    assert found["reason"] == ""
    most, least = found["settings"][0], found["settings"][-1]
    assert most["low"] <= most["importance"] <= most["high"]
    assert abs(least["importance"]) < 0.05


def test_noise_has_no_importance():
    found = measure_importance(trials_of(lambda _, random: random.random(), 30), PATHS)
    assert found["r2"] <= 0
    assert found["settings"] == []
    assert "no better than their mean" in found["reason"]


def test_too_few_or_equal_trials():
    found = measure_importance(trials_of(lambda v, _: v["a"], MIN_TRIALS - 1), PATHS)
    assert (found["r2"], found["settings"]) == (None, [])
    assert "at least 10 trials" in found["reason"]
    failed = [{"values": {}, "score": None}] * 90
    assert measure_importance(failed, PATHS)["trials"] == 0
    assert "same score" in measure_importance(trials_of(lambda v, _: 0.5), PATHS)["reason"]


def test_a_setting_that_some_trials_lack():
    trials = trials_of(lambda v, _: v["a"] if v["kind"] == "x" else 0.0)
    for trial in trials:
        if trial["values"]["kind"] == "y":
            del trial["values"]["a"]
    found = measure_importance(trials, PATHS)
    assert found["settings"][0]["path"] == "a"
