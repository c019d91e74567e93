"""Losses as earlier releases saved them: what is in those files still loads, and means the same."""

import json
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from anchorage.losses import LOSSES, create_loss

DATA = Path(__file__).parents[2] / "data"
# The losses with their defaults, serialized by the code before `LossLayer.compute`: by name.
OLDER = json.loads((DATA / "older_losses.json").read_text())
# By `tests/oracles/older_losses.py`, from commit 3a9f0b8, the last before options went: the loss, what its config holds
# beside the defaults, its weights' shapes by their place in a file, and what it costs with the weights of `fill`.
SETTINGS = json.loads((DATA / "older_settings.json").read_text())
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
        loss(X, LABELS, training=False)  # makes the weights
    assert [weight.shape for weight in older.variables] == [weight.shape for weight in today.variables]
    for one, other in zip(older.variables, today.variables, strict=True):
        other.assign(one)
    assert float(older(X, LABELS)) == float(today(X, LABELS))


def weights_in_file(loss, path):
    """Shapes of the weights by their place in a file, below the loss."""
    embeddings, labels = keras.Input((8,)), keras.Input((), dtype="int32")
    keras.Model([embeddings, labels], loss(embeddings, labels)).save_weights(path)
    shapes = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: shapes.update({name: item.shape} if hasattr(item, "shape") else {}))
    return {name.split("/", 2)[2]: list(shape) for name, shape in shapes.items()}


def fill(loss):
    """Numbers for the weights that training changes, in place of random ones."""
    for weight in loss.trainable_variables:
        weight.assign(np.cos(1.0 + np.arange(np.prod(weight.shape))).reshape(weight.shape))


# What no option of today stands for: the error says what to do.
GONE = ('"log_c": "poly"', '"log_mean"', '"mining": "angular"', '"mining": "easy"', '"mining": "margin"')
GONE += ('"negative_base"', '"sampler_b"', '"scale_sample_by_kappa"', '"variance_reduction"')


def is_gone(changed):
    return any(option in json.dumps(changed) for option in GONE)


def settings(gone):
    cases = [case for case in SETTINGS if is_gone(case[1]) == gone]
    return pytest.mark.parametrize(
        ("name", "changed", "places", "cost"), cases, ids=[f"{name}-{changed}" for name, changed, *_ in cases]
    )


def is_thorough(item):
    """`make test` takes the settings with options of then."""
    if item.originalname != "test_older_settings_keep_their_cost_and_the_places_of_their_weights":
        return False
    return not item.callspec.params["changed"].keys() & LOSSES[item.callspec.params["name"]]._removed.keys()


def load(name, changed):
    return keras.saving.deserialize_keras_object({**OLDER[name], "config": {**OLDER[name]["config"], **changed}})


@settings(gone=False)
def test_older_settings_keep_their_cost_and_the_places_of_their_weights(name, changed, places, cost, tmp_path):
    loss = load(name, changed)
    loss(keras.KerasTensor((None, 8)), keras.KerasTensor((None,), dtype="int32"))
    assert bool(loss.variables) == bool(places)
    if places:
        assert weights_in_file(loss, tmp_path / "model.weights.h5") == places
    fill(loss)
    assert float(loss(X, LABELS)) == pytest.approx(cost, rel=1e-5, abs=1e-6)


@settings(gone=True)
def test_older_settings_that_are_gone_are_refused_with_a_remedy(name, changed, places, cost):
    with pytest.raises((TypeError, ValueError), match=r"Build the loss anew|Use the loss 'mined'"):
        load(name, changed)
