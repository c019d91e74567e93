"""The settings of a training: from plain values, with their defaults, and back."""

import json

import pytest

from anchorage.errors import UsageError
from anchorage.training.settings import EncoderSettings, OptimizerSettings, Part, RunSettings, TrainingSettings

LEAST = {
    "epochs": 3,
    "sampler": {"name": "class_batches", "params": {"classes": 4}},
    "optimizer": {"name": "sgd", "learning_rate": 0.1},
}
RUN = {"encoder": {"name": "small"}, "loss": {"name": "contrastive"}, "training": LEAST}


def test_the_least_gets_defaults():
    settings = TrainingSettings.from_dict(LEAST)
    assert (settings.epochs, settings.steps_per_epoch, settings.patience, settings.procedure) == (3, 0, 0, None)
    assert (settings.precision, settings.strategy, settings.augmentation, settings.methods) == ("float32", "", {}, [])
    optimizer = settings.optimizer
    assert optimizer == OptimizerSettings("sgd", 0.1, "constant", 0, 0.0, {}, {}, {})


def test_sections_become_objects():
    training = {**LEAST, "methods": [{"name": "moving_average"}], "procedure": {"name": "class_folds", "params": {}}}
    encoder = {"name": "small", "head": {"name": "global_local", "params": {"parts": 2}}}
    settings = RunSettings.from_dict({**RUN, "encoder": encoder, "training": training, "seed": 7})
    assert settings.encoder == EncoderSettings("small", 128, "gem", None, False, Part("global_local", {"parts": 2}))
    assert settings.loss == Part("contrastive", {})
    assert settings.training.sampler == Part("class_batches", {"classes": 4})
    assert settings.training.methods == [Part("moving_average", {})]
    assert (settings.training.procedure, settings.seed) == (Part("class_folds", {}), 7)


def test_plain_values_and_back():
    settings = RunSettings.from_dict({**RUN, "training": {**LEAST, "methods": [{"name": "moving_average"}]}})
    assert RunSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert settings.to_dict()["training"]["optimizer"]["learning_rate"] == 0.1


def test_what_the_optimizer_of_keras_takes_may_stand_beside_its_own_settings():
    given = {"name": "sgd", "learning_rate": 0.1, "warmup_steps": 5, "nesterov": True, "params": {"momentum": 0.9}}
    settings = OptimizerSettings.from_dict(given)
    assert (settings.warmup_steps, settings.params) == (5, {"nesterov": True, "momentum": 0.9})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"training": {**LEAST, "epoch": 3}}, r"E_PARAMETER_UNKNOWN: training takes .* Received unknown: \['epoch'\]"),
        ({"encoder": {"name": "small", "widths": [4]}}, r"UNKNOWN: encoder takes .* Received unknown: \['widths'\]"),
        ({"loss": {"name": "contrastive", "margin": 1.0}}, r"UNKNOWN: a building block takes \['name', 'params'\]"),
        ({"losses": {}}, r"E_PARAMETER_UNKNOWN: a run takes .*'loss'.* Received unknown: \['losses'\]"),
        ({"training": {"epochs": 3}}, r"E_PARAMETER_MISSING: training needs \['optimizer', 'sampler'\]"),
        ({"loss": {"params": {}}}, r"E_PARAMETER_MISSING: a building block needs \['name'\]"),
    ],
)
def test_a_wrong_or_missing_name_is_refused(change, expected):
    with pytest.raises(UsageError, match=expected):
        RunSettings.from_dict({**RUN, **change})
