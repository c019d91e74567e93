"""What TFX's Trainer and Tuner run: settings as one JSON text, and ranges that the tuner settles."""

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from tfx.components.tuner import executor
from tfx.types.standard_artifacts import HyperParameters, TunerResults

from anchorage.data.store import Record, RecordSpec, RecordStore, write_store
from anchorage.tuning import training as trial_module
from anchorage.tuning.record import SEARCH, read_search
from anchorage_components import tuner as tuner_module
from anchorage_components.artifacts import HISTORY, UNTRAINED
from anchorage_components.trainer import LEARNER, run_fn
from anchorage_components.tuner import tuner_fn

RANGE = {"low": 0.01, "high": 0.1}
SETTINGS = {
    "seed": 3,
    "encoder": {"name": "small", "embedding_size": 4, "frozen_norm": None, "params": {"widths": [4]}},
    "loss": {"name": "contrastive", "params": {}},
    "training": {
        "epochs": 1,
        "steps_per_epoch": 2,
        "sampler": {"name": "class_batches", "params": {"classes": 2, "per_class": 2}},
        "optimizer": {"name": "sgd", "learning_rate": RANGE},
        "augmentation": {},
        "methods": None,
        "procedure": None,
    },
}


@pytest.fixture
def fn_args(tmp_path):
    """As TFX gives them, with the stores of four training classes and of four others."""
    for split, seed in (("train", 0), ("eval", 1)):
        images = np.random.default_rng(seed).integers(0, 256, (12, 8, 8, 3), np.uint8)
        records = [Record(f"{n}.png", f"{split} {n % 4}", "both", image) for n, image in enumerate(images)]
        write_store(tmp_path / split, records, RecordSpec(8))
    return SimpleNamespace(
        train_files=[str(tmp_path / "train/*")],
        eval_files=[str(tmp_path / "eval/*")],
        custom_config={
            "settings_json": json.dumps(SETTINGS),
            "checkpoints": str(tmp_path / "checkpoints"),
            "features": str(tmp_path / "features"),
            "code_version": "1",
        },
        hyperparameters={"values": {"training.optimizer.learning_rate": 0.05}},
        serving_model_dir=str(tmp_path / "model"),
        model_run_dir=str(tmp_path / "run"),
        working_dir=str(tmp_path / "tuner"),
    )


def test_trains_with_what_the_tuner_found_and_records_all_settings(fn_args, tmp_path):
    run_fn(fn_args)
    assert (tmp_path / "model/saved_model.pb").is_file()
    assert (tmp_path / "model" / LEARNER).is_file()
    assert [path.name for path in (tmp_path / "run" / UNTRAINED).iterdir()] == ["network"]  # no stored weights
    history = json.loads((tmp_path / "run" / HISTORY).read_text())
    assert len(history["epochs"]) == 2
    settings = history["settings"]
    assert settings["seed"] == 3
    assert settings["encoder"]["frozen_norm"] is False
    assert settings["loss"] == {"name": "contrastive", "params": {}}
    assert settings["training"]["methods"] == []
    assert settings["training"]["optimizer"]["learning_rate"] == 0.05
    chosen = {choice["setting"]: choice["value"] for choice in history["recipe"]}
    assert chosen["encoder.frozen_norm"] is False
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.thorough
def test_a_head_on_cached_features_is_exported_with_its_trunk(fn_args, tmp_path):
    encoder = {"name": "trunks:convolution", "weights": "own", "embedding_size": 4, "pooling": "avg", "cache": True}
    settings = {**SETTINGS, "encoder": {**encoder, "frozen_norm": None, "head": {"name": "plain"}}}
    fn_args.custom_config["settings_json"] = json.dumps(settings)
    run_fn(fn_args)
    assert len(list((tmp_path / "features").iterdir())) == 2
    pixels = RecordStore(tmp_path / "train").read(np.arange(12))
    model = tf.saved_model.load(str(tmp_path / "model"))
    served = model.signatures["pixels"](images=tf.constant(pixels))["embeddings"].numpy()
    learner = keras.models.load_model(tmp_path / "model" / LEARNER)
    np.testing.assert_allclose(served, learner.predict(pixels, verbose=0), atol=1e-5)
    assert served.shape == (12, 4)
    encoded = tf.constant([tf.io.encode_png(image).numpy() for image in pixels])
    from_bytes = model.signatures["serving_default"](images=encoded)["embeddings"].numpy()
    np.testing.assert_allclose(from_bytes, served, atol=1e-5)
    assert sorted(path.name for path in (tmp_path / "run" / UNTRAINED).iterdir()) == ["features", "network"]


def test_a_trial_trains_with_values_in_the_range_for_the_epochs_of_the_search(fn_args, monkeypatch):
    fn_args.custom_config["tuning_json"] = json.dumps({"trials": 1, "epochs": 2, "repeats": 0})
    results, train = [], trial_module.run_training
    monkeypatch.setattr(trial_module, "run_training", lambda *a, **k: results.append(train(*a, **k)) or results[-1])
    tuner = tuner_fn(fn_args).tuner
    tuner.search()
    [run], [trial] = results, tuner.result.trials
    rate = run.result.settings["training"]["optimizer"]["learning_rate"]
    assert 0.01 <= rate <= 0.1
    assert trial.values == {"training.optimizer.learning_rate": rate}
    _, *epochs = run.result.history
    assert len(epochs) == 2
    assert trial.curve == tuple(row["val_map@r"] for row in epochs)
    assert trial.score == max(trial.curve)
    assert trial.samples == (8, 16)  # two steps of two classes with two images
    assert {"recall@1", "loss"} <= set(trial.metrics)


def test_another_oracle_is_another_search_and_a_larger_budget_is_not(fn_args):
    def folder(**tuning):
        fn_args.custom_config["tuning_json"] = json.dumps(tuning)
        return tuner_fn(fn_args).tuner.folder

    assert folder(trials=1) == folder(trials=2, minutes=3.0, repeats=4)
    others = [folder(oracle="grid"), folder(stop_early=False), folder(epochs=2), folder(folds=2)]
    assert len({folder(), *others}) == 5


@pytest.fixture
def run_node(fn_args, tmp_path, monkeypatch):
    """Runs the node with a tuner function; its outputs are folders of their names."""

    def run(tuner_fn):
        monkeypatch.setattr(executor.fn_args_utils, "get_common_fn_args", lambda *arguments: fn_args)
        outputs = {"best_hyperparameters": [HyperParameters()], "tuner_results": [TunerResults()]}
        for name, [artifact] in outputs.items():
            artifact.uri = str(tmp_path / name)
            (tmp_path / name).mkdir()
        node = tuner_module.Executor(executor.Executor.Context(tmp_dir=str(tmp_path), unique_id="1"))
        node.Do({}, outputs, {"tuner_fn": tuner_fn})

    return run


def test_the_tuner_keeps_the_record_of_the_search(run_node, fn_args, tmp_path, monkeypatch):
    settings = {**SETTINGS, "loss": {"choices": [{"name": "contrastive", "params": {}}, {"name": "nca", "params": {}}]}}
    settings["training"] = {**SETTINGS["training"], "optimizer": {"name": "sgd", "learning_rate": 0.1}}
    fn_args.custom_config |= {
        "settings_json": json.dumps(settings),
        "tuning_json": json.dumps({"oracle": "grid", "trials": 5, "epochs": 1, "repeats": 1}),
    }

    def train(values, report):
        report(8, 0.25)
        return {"map@r": 0.5 if values["loss"] == "nca" else 0.3}

    for module in (trial_module, tuner_module):  # TFX loads the latter again
        monkeypatch.setattr(module, "trial_training", lambda *arguments, **options: train)
    run_node("anchorage_components.tuner.tuner_fn")
    search = read_search(tmp_path / "tuner_results" / SEARCH)
    assert [trial.values for trial in search.trials] == [{"loss": "contrastive"}, {"loss": "nca"}]
    assert search.best == 1
    assert [repeat.seed for repeat in search.repeats] == [4]
    assert search.stop_reason == "space"
    assert len(list((tmp_path / "tuner_results" / "tensorboard").iterdir())) == 2
    assert not list((tmp_path / "checkpoints").iterdir())
    best = json.loads((tmp_path / "best_hyperparameters" / "best_hyperparameters.txt").read_text())
    assert best["values"] == {"loss": "nca"}


def test_the_tuner_function_may_be_a_users_own(run_node, tmp_path, monkeypatch):
    (tmp_path / "my_lab.py").write_text(
        "import keras_tuner\n"
        "from tfx.components.tuner.component import TunerFnResult\n"
        "class MyTuner(keras_tuner.RandomSearch):\n"
        "    def run_trial(self, trial, **kwargs):\n"
        "        return {'score': trial.hyperparameters.Float('training.optimizer.learning_rate', 0.01, 0.1)}\n"
        "def tuner_fn(fn_args):\n"
        "    objective = keras_tuner.Objective('score', 'max')\n"
        "    tuner = MyTuner(objective=objective, max_trials=3, directory=fn_args.working_dir)\n"
        "    return TunerFnResult(tuner, {})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run_node("my_lab.tuner_fn")
    best = json.loads((tmp_path / "best_hyperparameters" / "best_hyperparameters.txt").read_text())
    assert 0.01 <= best["values"]["training.optimizer.learning_rate"] <= 0.1
    assert len(json.loads((tmp_path / "tuner_results" / "tuner_results.json").read_text())) == 3
    assert not (tmp_path / "tuner_results" / SEARCH).exists()
