"""Losses as earlier releases saved them: what is in those files still loads, and means the same."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from anchorage.losses import LOSSES, create_loss

# The losses with their defaults, serialized by the code before `LossLayer.compute`: by name.
OLDER = json.loads((Path(__file__).parents[2] / "data" / "older_losses.json").read_text())
X, LABELS = np.random.default_rng(0).normal(size=(8, 8)).astype("float32"), np.array([0, 0, 1, 1, 2, 2, 3, 3])


def test_every_loss_of_then_is_still_there():
    assert len(OLDER) > 40
    assert OLDER.keys() <= LOSSES.keys()


def nameless(config):
    """The config without the names that Keras gives to layers, which count up."""
    if isinstance(config, list):
        return [nameless(part) for part in config]
    return {k: nameless(v) for k, v in config.items() if k != "name"} if isinstance(config, dict) else config


@pytest.mark.parametrize("name", sorted(OLDER))
def test_older_config_gives_the_loss_of_today(name):
    older = keras.saving.deserialize_keras_object(OLDER[name])
    today = create_loss(name, num_classes=4)
    assert type(older) is type(today)
    ours, theirs = nameless(older.get_config()), nameless(today.get_config())
    assert {key for key in ours if ours[key] != theirs[key]} == set()
    for loss in (older, today):
        loss(keras.KerasTensor((None, 8)), keras.KerasTensor((None,), dtype="int32"))
    assert [weight.shape for weight in older.variables] == [weight.shape for weight in today.variables]
    for one, other in zip(older.variables, today.variables, strict=True):
        other.assign(one)
    assert float(older(X, LABELS)) == float(today(X, LABELS))
