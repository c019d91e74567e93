"""Recipes seen from the experiment file; the project's own files train as they did when defaults were fixed."""

import gzip
import json
from pathlib import Path

import pytest

from anchorage.training.recipes import Facts, choose_settings, format_choices
from anchorage_pipeline.comparison.plan import expand
from anchorage_pipeline.comparison.settings import load_comparison
from anchorage_pipeline.config import Experiment, load_experiment
from anchorage_pipeline.identity import training_settings
from anchorage_pipeline.recipe import write_out

FOLDER = Path(__file__).parents[2] / "pipeline/experiments"
COUNTS = [13] * 146
# Settings of every file of commit ef7c136, the last with fixed defaults; of a comparison those of every candidate.
BEFORE = json.loads(gzip.decompress((Path(__file__).parent / "settings-before-recipes.json.gz").read_bytes()))
BEFORE.pop("toy")  # trains longer now, to beat the baselines of the gate
for name, before in BEFORE.items():  # icons hold out the default share now; a comparison deals its own folds
    if name.startswith(("icons", "compare-")):
        before["data"]["val_share"] = 0.15
# What is said now and was so then without a word.
IMPLIED = {
    "training.optimizer.rate_factors.trunk": 1.0,
    "training.optimizer.rate_factors.proxies": 1.0,
    "training.optimizer.frozen_steps.trunk": 0,
    "training.optimizer.params.weight_decay": 0.004,  # of Keras' AdamW
    "loss.params.proxies_per_class": 1,  # of `proxy_nca`
    "training.loggers": [{"name": "tensorboard", "params": {}}],
    "data.follow_links": False,  # how data was listed that holds no links
    "data.input": "images",
    "data.attributes": [],
    "encoder.cache": False,
    "encoder.cached_copies": 0,
}
# Options that are gone, with the values that stand for what the losses do now.
GONE = {"loss.params.form": "margin"}
# What a file searches today over more values than then, and writes in another form.
SEARCHED = {
    "19-balanced-contrastive": (
        *("loss.params.lam.", "loss.params.margin.", "loss.params.aggregation"),
        "training.sampler.params.classes",
    )
}


def experiment(**sections):
    return Experiment.model_validate({"name": "a", "data": {"path": "images"}, **sections})


def flat(table, path=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{path}{key}.")
        else:
            yield path + key, value


def written(one):
    settings = training_settings(write_out(one, COUNTS))
    return {**settings, "data": one.data.model_dump(mode="json")}


@pytest.mark.parametrize("name", sorted({path.partition("/")[0] for path in BEFORE}))
def test_the_files_of_the_project_train_as_they_did(name):
    if name.startswith("compare-"):
        plan = expand(*load_comparison(FOLDER / f"{name}.toml"))
        now = {f"{name}/{e}/{n}": written(c.experiment) for e, cs in plan.items() for n, c in enumerate(cs)}
    else:
        now = {name: written(load_experiment(FOLDER / f"{name}.toml"))}
    for key, settings in now.items():
        searched = SEARCHED.get(key, ())
        found = {path: value for path, value in flat(settings) if not path.startswith(searched)}
        then = {path: value for path, value in flat(BEFORE[key]) if not path.startswith(searched)}
        expected = {path: value for path, value in then.items() if GONE.get(path) != value}
        assert {path: value for path, value in found.items() if path in expected} == expected, key
        added = {path: value for path, value in found.items() if path not in expected and value is not None}
        assert added.items() <= IMPLIED.items(), key


def list_choices(experiment, counts):
    settings = training_settings(experiment)
    return format_choices(choose_settings(settings, counts)[1], Facts.of(settings["encoder"], counts))


def test_written_out_nothing_is_left_to_choose():
    whole = write_out(experiment(), COUNTS)
    assert whole.loss.name == "multi_similarity"
    assert whole.training.sampler.params == {"classes": 32, "per_class": 4}
    assert list_choices(whole, COUNTS) == ""
    assert write_out(whole, [2] * 9) == whole


def test_a_range_is_a_written_value():
    searched = experiment(
        loss={"name": "contrastive", "params": {"neg_margin": {"low": 0.2, "high": 0.5}}},
        training={"optimizer": {"rate_factors": {"trunk": {"low": 0.01, "high": 0.3}}}},
    )
    settings = training_settings(searched)
    assert settings["training"]["optimizer"]["rate_factors"] == {
        "proxies": None,
        "trunk": {"low": 0.01, "high": 0.3, "sampling": "linear", "step": None, "default": None},
    }
    result = list_choices(searched, COUNTS)
    assert "rate_factors.trunk" not in result
    assert "rate_factors.proxies" in result


def test_the_choices_of_the_recipe_are_shown_before_a_run():
    result = list_choices(experiment(encoder={"name": "small"}), [7] * 300)
    assert result.startswith("recipe for a trunk with random weights, 300 training classes of 7 images")
    assert "multi_proxy_anchor" in result
