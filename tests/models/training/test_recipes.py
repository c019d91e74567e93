"""What the recipe chooses, what it leaves alone, and that it can be trained with whatever the data are."""

import copy
import inspect

import numpy as np
import pytest

from anchorage.data.sampling import SAMPLERS
from anchorage.losses import LOSSES, create_loss
from anchorage.methods import METHODS
from anchorage.procedures import run_training
from anchorage.proxies.bank import start_at_class_means
from anchorage.registry import constructor_parameters, create
from anchorage.training import recipes
from anchorage.training.recipes import DIRECTION_PROXIES, WRITTEN, Facts, choose_settings, format_choices

OPEN = {
    "encoder": {"name": "small", "embedding_size": 8, "weights": None, "frozen_norm": None, "params": {}},
    "loss": None,
    "training": {
        "epochs": None,
        "steps_per_epoch": None,
        "sampler": None,
        "augmentation": None,
        "methods": None,
        "procedure": None,
        "optimizer": {
            "name": None,
            "learning_rate": None,
            "schedule": None,
            "warmup_steps": None,
            "final_share": None,
            "rate_factors": {"proxies": None, "trunk": None},
            "frozen_steps": {"trunk": None},
            "params": {"weight_decay": None},
        },
    },
}
# Images of each class, from a catalogue to the odd ones.
COUNTS = {
    "usual": [13] * 98,
    "pairs": [2] * 500,
    "many": [5] * 10_000,
    "three": [40] * 3,
    "three small": [2, 2, 3],
    "one huge": [6] * 30 + [50_000],
    "large": [500] * 40,
    "singles": [1] * 50,
    "one class": [9],
}


def settings(pretrained=True, loss=None, **training):
    made = copy.deepcopy(OPEN)
    made["encoder"]["weights"] = "imagenet" if pretrained else None
    made["loss"] = loss
    made["training"] |= training
    return made


def leaves(value):
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    else:
        yield value


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_every_batch_can_be_drawn(counts, pretrained):
    chosen, _ = choose_settings(settings(pretrained), counts)
    sampler, labels = chosen["training"]["sampler"], np.repeat(np.arange(len(counts)), counts)
    made = create(SAMPLERS, sampler["name"], sampler["params"], {"labels": labels, "seed": 0})
    assert made.batch_size <= 128
    assert len(made.batch(0)) == made.batch_size
    assert chosen["training"]["steps_per_epoch"] >= 10


def test_nothing_stays_open():
    chosen, _ = choose_settings(settings(), COUNTS["usual"])
    open_values = [value for part in ("loss", "training") for value in leaves(chosen[part]) if value is None]
    assert open_values == [None]  # the procedure: none


def test_small_classes_are_drawn_in_full():
    chosen, _ = choose_settings(settings(), [3] * 200)
    assert chosen["training"]["sampler"] == {"name": "class_batches", "params": {"classes": 42, "per_class": 3}}
    # 600 images in batches of 126 are 5 steps
    assert chosen["training"]["steps_per_epoch"] == 10


def test_few_classes_get_more_images_each():
    chosen, _ = choose_settings(settings(), [40] * 3)
    assert chosen["training"]["sampler"]["params"] == {"classes": 3, "per_class": 40}


def test_a_huge_class_does_not_make_the_epochs_longer():
    even, _ = choose_settings(settings(), [20] * 100)
    huge, _ = choose_settings(settings(), [20] * 99 + [100_000])
    # Batches of 128; the huge class counts as 80 images.
    assert even["training"]["steps_per_epoch"] == 16
    assert huge["training"]["steps_per_epoch"] == 17
    assert choose_settings(settings(False), [20] * 99 + [100_000])[0]["training"]["sampler"]["name"] == "class_batches"


def test_a_pretrained_trunk_is_spared():
    chosen, _ = choose_settings(settings(), COUNTS["usual"])
    training, optimizer = chosen["training"], chosen["training"]["optimizer"]
    assert chosen["encoder"]["frozen_norm"] is True
    assert optimizer["rate_factors"]["trunk"] < 1
    # 1,274 images in batches of 128 are 10 steps: half of them
    assert optimizer["frozen_steps"]["trunk"] == 5
    assert [method["name"] for method in training["methods"]] == ["whitened_start"]


def test_cached_features_leave_no_trunk_to_set():
    given = settings()
    encoder = {**given["encoder"], "cache": True}
    training = choose_settings({**given, "encoder": encoder}, COUNTS["usual"])[0]["training"]
    assert training["augmentation"] == {}
    assert "trunk" not in training["optimizer"]["rate_factors"]
    assert training["optimizer"]["frozen_steps"] == {}
    assert [method["name"] for method in training["methods"]] == ["whitened_start"]
    chosen, _ = choose_settings({**given, "encoder": {**encoder, "cached_copies": 3}}, COUNTS["usual"])
    assert chosen["training"]["augmentation"]


def test_random_weights_all_move():
    chosen, _ = choose_settings(settings(False), COUNTS["usual"])
    assert chosen["loss"] == {"name": "multi_proxy_anchor", "params": {"proxies_per_class": 1}}
    assert chosen["encoder"]["frozen_norm"] is False
    assert chosen["training"]["optimizer"]["rate_factors"] == {"proxies": 100.0, "trunk": 1.0}
    assert chosen["training"]["optimizer"]["frozen_steps"] == {"trunk": 0}
    assert chosen["training"]["methods"] == []


def test_the_rest_goes_with_the_loss_that_is_written():
    written = {"name": "multi_proxy_anchor", "params": {"alpha": 16.0, "proxies_per_class": None}}
    chosen, _ = choose_settings(settings(loss=written), COUNTS["usual"])
    assert chosen["loss"]["params"] == {"alpha": 16.0, "proxies_per_class": 1}
    assert [method["name"] for method in chosen["training"]["methods"]] == ["whitened_start", "class_mean_start"]
    written = {"name": "triplet", "params": {"proxies_per_class": None}}
    chosen, _ = choose_settings(settings(False, loss=written), COUNTS["usual"])
    assert chosen["loss"]["params"] == {}
    assert chosen["training"]["sampler"]["name"] == "class_batches"


def test_large_classes_get_several_proxies():
    chosen, _ = choose_settings(settings(False), COUNTS["large"])
    assert chosen["loss"]["params"]["proxies_per_class"] == 2


def test_what_is_written_stays_value_by_value():
    given = settings(epochs=3, sampler={"name": "shuffled_batches", "params": {"batch_size": 7}}, augmentation={})
    given["training"]["optimizer"] |= {
        "learning_rate": 5e-4,
        "rate_factors": {"proxies": 2.0, "trunk": None, "head": 3.0},
    }
    chosen, choices = choose_settings(given, COUNTS["usual"])
    training, optimizer = chosen["training"], chosen["training"]["optimizer"]
    assert (training["epochs"], training["augmentation"]) == (3, {})
    assert training["sampler"] == given["training"]["sampler"]
    assert training["steps_per_epoch"] == 0  # a round of that sampler
    assert optimizer["learning_rate"] == 5e-4
    assert optimizer["rate_factors"] == {"proxies": 2.0, "trunk": 0.3, "head": 3.0}
    reasons = {choice.setting: choice.reason for choice in choices}
    assert reasons["training.epochs"] == reasons["training.optimizer.rate_factors.proxies"] == WRITTEN
    assert reasons["training.optimizer.rate_factors.trunk"] != WRITTEN
    assert given == {**given}  # the caller's settings are not touched
    assert given["training"]["optimizer"]["rate_factors"]["trunk"] is None


def test_settings_without_gaps_stay_as_they_are():
    given = {
        "encoder": {"name": "small", "embedding_size": 8},
        "loss": {"name": "contrastive"},
        "training": {"epochs": 2, "sampler": {"name": "shuffled_batches"}, "optimizer": {"name": "sgd"}},
    }
    assert choose_settings(given, [4] * 9)[0] == given


def test_weight_decay_is_left_to_an_optimizer_that_is_written():
    given = settings()
    given["training"]["optimizer"]["name"] = "sgd"
    assert choose_settings(given, COUNTS["usual"])[0]["training"]["optimizer"]["params"] == {}


@pytest.mark.parametrize("change", [{"head": {"name": "ensemble", "params": {}}}, {}])
def test_only_a_plain_head_without_a_procedure_is_whitened(change):
    given = settings(procedure=None if change else {"name": "class_folds", "params": {}})
    given["encoder"] |= change
    assert choose_settings(given, COUNTS["usual"])[0]["training"]["methods"] == []


def test_choices_are_listed_with_their_reasons():
    _, choices = choose_settings(settings(epochs=3), COUNTS["usual"])
    result = format_choices(choices, Facts.of({"weights": "imagenet"}, COUNTS["usual"]))
    assert result.startswith("recipe for a pretrained trunk, 98 training classes of 13 images (median; minimum 13)")
    assert "class_batches classes=32 per_class=4" in result
    assert "training.epochs" not in result
    assert all(choice.reason for choice in choices)
    assert format_choices([choice for choice in choices if choice.reason == WRITTEN]) == ""


def test_direction_proxies_can_start_at_class_means():
    assert set(LOSSES) > DIRECTION_PROXIES
    for name in DIRECTION_PROXIES:
        assert constructor_parameters(LOSSES[name])["num_classes"] is inspect.Parameter.empty
        loss = create_loss(name, num_classes=3, embedding_size=4)
        loss(np.eye(6, 4, dtype="float32"), np.repeat(np.arange(3), 2))
        start_at_class_means(loss, np.eye(6, 4), np.repeat(np.arange(3), 2))


def test_what_may_be_chosen_is_there_and_named_for_the_cache_key():
    for pretrained in (True, False):
        for loss in (None, {"name": "proxy_nca", "params": {}}):
            chosen, _ = choose_settings(settings(pretrained, loss), COUNTS["usual"])
            assert loss or chosen["loss"]["name"] in recipes.LOSSES
            assert {method["name"] for method in chosen["training"]["methods"]} <= set(recipes.METHODS)
    assert set(recipes.LOSSES) <= set(LOSSES)
    assert set(recipes.METHODS) <= set(METHODS)


def test_a_training_without_any_setting(store, validation_store, capsys):
    given = settings(False, epochs=2)
    given["encoder"]["params"] = {"widths": [4, 8]}
    result = run_training(store, validation_store, **given, seed=1, verbose=2).result
    assert "recipe for a trunk with random weights, 8 training classes of 6 images" in capsys.readouterr().out
    assert result.settings["loss"]["name"] == "multi_proxy_anchor"
    assert result.settings["training"]["epochs"] == 2
    assert {choice.setting for choice in result.recipe} >= {"loss", "training.sampler", "training.optimizer.name"}


@pytest.mark.thorough
def test_a_procedure_chooses_batches_for_the_classes_of_each_training(store, validation_store):
    """Half of eight classes in a fold, where the recipe for all of them would draw eight."""
    given = settings(False, {"name": "triplet", "params": {}}, epochs=1)
    given["training"]["procedure"] = {"name": "class_folds", "params": {"folds": 2}}
    given["encoder"]["params"] = {"widths": [4, 8]}
    result = run_training(store, validation_store, **given, seed=1, verbose=0).result
    assert [row["stage"] for row in result.history] == [0, 0, 1, 1]


@pytest.mark.parametrize("encoder", [{"name": "head"}, {"cache": True, "cached_copies": 2}, {}])
def test_each_setting_is_listed_once(encoder):
    made = settings()
    made["encoder"] |= encoder
    rows = [choice.setting for choice in choose_settings(made, COUNTS["usual"])[1]]
    assert sorted(rows) == sorted(set(rows))
