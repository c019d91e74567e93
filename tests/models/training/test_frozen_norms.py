"""What is frozen stays: weights and running statistics, in whole trainings."""

import keras
import numpy as np
import pytest

from anchorage.errors import UsageError
from anchorage.training.run import train_run

OPTIMIZER = {"name": "adamw", "learning_rate": 1e-2, "params": {"weight_decay": 0.5, "global_clipnorm": 1.0}}


@pytest.fixture
def moved(store, settings):
    """Trains and says which weights of the encoder moved, by path, with the learner."""

    def train(encoder=None, **training):
        start = {}
        arguments = settings(**{"epochs": 2, "steps_per_epoch": 5, **training})
        arguments["encoder"] = {**arguments["encoder"], **(encoder or {})}

        def remember(learner):
            start.update({w.path: keras.ops.convert_to_numpy(w) for w in learner.encoder.weights})

        learner, _ = train_run(store, None, **arguments, prepare=remember)
        now = {w.path: keras.ops.convert_to_numpy(w) for w in learner.encoder.weights}
        return {path: not np.array_equal(now[path], start[path]) for path in start}, learner

    return train


def of_trunk(found):
    return [hit for path, hit in found.items() if path.startswith("stage")]


def of_head(found):
    return [hit for path, hit in found.items() if path.startswith("projection")]


@pytest.mark.parametrize(
    ("held", "precision"),
    [
        ({"frozen_steps": {"trunk": 10}}, "mixed_float16"),
        pytest.param({"rate_factors": {"trunk": 0.0}}, "float32", marks=pytest.mark.thorough),
    ],
)
def test_a_frozen_trunk_does_not_change_at_all(moved, held, precision):
    found, learner = moved(optimizer={**OPTIMIZER, **held}, precision=precision)
    assert len(of_trunk(found)) == 15  # three convolutions and their norms of four
    assert not any(of_trunk(found))
    assert all(of_head(found))
    assert all(layer.trainable for layer in learner._flatten_layers())  # as if nothing had been


@pytest.mark.thorough
def test_then_all_of_it_moves(moved):
    found, _ = moved(optimizer={**OPTIMIZER, "frozen_steps": {"trunk": 7}})
    assert all(of_trunk(found))


@pytest.mark.thorough
def test_only_the_norms_of_the_group_keep_their_statistics(moved):
    found, _ = moved(optimizer={**OPTIMIZER, "frozen_steps": {"stage_0_0_norm": 10, "stage_1_0": 10}})
    still = {path for path, hit in found.items() if not hit}
    norm = {f"stage_0_0_norm/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    assert still == norm | {"stage_1_0/kernel"}


def test_a_frozen_trunk_gives_in_training_what_it_gives_in_evaluation(store, settings):
    """The loss of the first step, by hand from embeddings of evaluation."""
    losses = {}
    for name, steps in {"frozen": {"trunk": 1}, "free": {}}.items():
        seen = []

        def look(learner, seen=seen):
            learner.encoder.get_layer("trunk").get_layer("stage_1_1_norm").moving_mean.assign(np.full(8, 0.5))
            embeddings = learner.encoder.predict(store.read(np.arange(len(store))), verbose=0)
            seen.append(float(learner.loss_layer(embeddings, store.labels)))

        arguments = settings(
            epochs=1,
            steps_per_epoch=1,
            sampler={"name": "class_batches", "params": {"classes": 8, "per_class": 6}},
            optimizer={**OPTIMIZER, "frozen_steps": steps},
            augmentation={},
        )
        result = train_run(store, None, **arguments, prepare=look).result
        losses[name] = result.history[1]["loss"], seen[0]
    assert losses["frozen"][0] == pytest.approx(losses["frozen"][1], rel=1e-5)
    assert losses["free"][0] != pytest.approx(losses["free"][1], rel=1e-3)


@pytest.mark.thorough
@pytest.mark.parametrize("stop", [4, 8])
def test_goes_on_while_frozen_and_after(goes_on, settings, stop):
    goes_on(settings(epochs=2, optimizer={**OPTIMIZER, "frozen_steps": {"trunk": 7}}), [stop])


def test_frozen_norm_keeps_statistics_and_scales_only(moved):
    found, _ = moved(encoder={"frozen_norm": True}, optimizer=OPTIMIZER)
    assert {path for path, hit in found.items() if not hit} == {path for path in found if "_norm/" in path}


def test_accumulated_batches_are_one_large_one(store, build):
    """For a loss that is a mean over items, without batch statistics."""
    sections = {
        "encoder": {"name": "small", "embedding_size": 8, "params": {"widths": [4, 8]}, "frozen_norm": True},
        "loss": {"name": "softmax", "params": {"normalize_weight": True, "use_bias": False}},
        "seed": 5,
    }

    def learner(**params):
        optimizer = {"name": "sgd", "learning_rate": 0.1, "params": {"weight_decay": 0.1, **params}}
        return build(sections, optimizer=optimizer, epochs=1, steps_per_epoch=4)

    whole, halves = learner(), learner(gradient_accumulation_steps=2)
    before = [keras.ops.convert_to_numpy(w) for w in whole.trainable_variables]
    rows = np.random.default_rng(0).permutation(len(store))[:16]
    images, labels = store.read(rows), store.labels[rows]
    whole.train_on_batch(images, labels)
    for half in (slice(0, 8), slice(8, 16)):
        halves.train_on_batch(images[half], labels[half])
    for start, one, two in zip(before, whole.trainable_variables, halves.trainable_variables, strict=True):
        one, two = keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(two)
        assert np.abs(one - start).max() > 1e-5, one
        np.testing.assert_allclose(two, one, atol=1e-6, rtol=1e-5)


def test_a_mistyped_group_stops_before_the_training(store, settings):
    for wrong in ({"frozen_steps": {"trunc": 500}}, {"rate_factors": {"prxies": 10.0}}):
        with pytest.raises(UsageError, match=r"E_NAME_UNKNOWN.*Known: .*head.*trunk.*Did you mean"):
            train_run(store, None, **settings(optimizer={**OPTIMIZER, **wrong}))
