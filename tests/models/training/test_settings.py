"""The settings of a training: from plain values, with their defaults."""

import pytest

from anchorage.errors import UsageError
from anchorage.training.settings import OptimizerSettings, TrainingSettings

LEAST = {
    "epochs": 3,
    "sampler": {"name": "class_batches", "params": {"classes": 4}},
    "optimizer": {"name": "sgd", "learning_rate": 0.1},
}


def test_the_least_gets_defaults():
    settings = TrainingSettings.from_dict(LEAST)
    assert (settings.epochs, settings.steps_per_epoch, settings.patience, settings.keep_start) == (3, 0, 0, True)
    assert (settings.precision, settings.strategy, settings.augmentation, settings.methods) == ("float32", "", {}, ())
    optimizer = settings.optimizer
    assert optimizer == OptimizerSettings("sgd", 0.1, "constant", 0, 0.0, {}, {}, {})


def test_what_the_optimizer_of_keras_takes_may_stand_beside_its_own_settings():
    given = {"name": "sgd", "learning_rate": 0.1, "warmup_steps": 5, "nesterov": True, "params": {"momentum": 0.9}}
    settings = OptimizerSettings.from_dict(given)
    assert (settings.warmup_steps, settings.params) == (5, {"nesterov": True, "momentum": 0.9})


def test_a_wrong_name_is_refused():
    with pytest.raises(UsageError, match=r"E_PARAMETER_UNKNOWN: training takes .* Received unknown: \['epoch'\]"):
        TrainingSettings.from_dict({**LEAST, "epoch": 3})
