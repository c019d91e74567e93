"""The settings of a judgement: their trip through JSON, and the limits of the gate."""

import json

import pytest

from anchorage.errors import UsageError
from anchorage.judging.settings import JudgeSettings


def test_through_json_and_back():
    settings = JudgeSettings(metrics=("recall@1", "map@r"), minimum={"map@r": 0.3}, slices=(), max_drop=0.1, seed=4)
    assert JudgeSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_an_experiment_of_another_version_has_keys_that_are_gone_and_lacks_new_ones():
    expected = {"name": "toy", "seed": 3, "evaluation": {"max_drop": 0.1, "bootstrap": 5, "slices": ["label"]}}
    settings = JudgeSettings.from_experiment(expected)
    assert (settings.max_drop, settings.slices, settings.seed) == (0.1, ("label",), 3)
    assert (settings.confidence, settings.resamples, settings.slice_drops) == (0.95, 2000, {"": 0.05})
    assert JudgeSettings.from_experiment({}) == JudgeSettings()


def test_a_wrong_name_is_refused():
    with pytest.raises(TypeError, match="max_dorp"):
        JudgeSettings.from_dict({"max_dorp": 0.1})


def test_rejects_a_floor_in_percent():
    with pytest.raises(UsageError, match=r"Expected `recall@1` of the gate in \[0, 1\]. Received: 90"):
        JudgeSettings(minimum={"recall@1": 90})
