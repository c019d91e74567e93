"""Weak labels, clusters and folds as whole trainings; what all procedures share."""

import json
import os
import signal

import keras
import numpy as np
import pyarrow.parquet as parquet
import pytest

from anchorage.data.store import RecordSpec
from anchorage.errors import ResourceError, UsageError
from anchorage.inference import embed_store
from anchorage.procedures import PROCEDURES, procedure, run_training
from anchorage.procedures.class_folds import combine_encoders
from anchorage.procedures.pseudo_clusters import spherical_kmeans
from anchorage.serving.export import export_encoder
from anchorage.training import monitor
from anchorage.training.fit import FitResult


@pytest.fixture
def trainings(monkeypatch):
    """The trainings of a procedure by name: learner, store and result."""
    seen, plain = {}, procedure.Task.train

    def recording(self, name, **options):
        seen[name] = (plain(self, name, **options), options.get("store", self.store), options)
        return seen[name][0]

    monkeypatch.setattr(procedure.Task, "train", recording)
    return seen


def section(name, **params):
    return {"name": name, "params": params}


def test_weak_labels_come_first(store, validation_store, settings, trainings):
    pattern = r"/(\d)\.png$"
    arguments = settings(epochs=2, procedure=section("weak_labels", pattern=pattern, weak_epochs=1, labelled_share=0.5))
    learner, result = run_training(store, validation_store, **arguments)
    weak, human = trainings["weak-labels"], trainings["human-labels"]
    assert list(trainings) == ["weak-labels", "human-labels"]
    assert (len(weak[1]), weak[1].class_names) == (48, [str(n) for n in range(6)])
    assert (len(human[1]), len(human[1].class_names)) == (24, 8)
    assert human[2]["optimizer"].learning_rate == pytest.approx(1e-4)
    assert weak[0].learner.loss_layer.num_classes == 6
    assert learner.loss_layer.num_classes == 8
    assert learner is human[0].learner
    assert [row["stage"] for row in result.history] == [0, 0, 1, 1, 1]
    assert [row["epoch"] for row in result.history] == [0, 1, 2, 3, 4]
    assert result.best_epoch in (2, 3, 4)
    human[2]["prepare"](learner)  # the encoder of the first training, and a loss of its own
    for ours, theirs in zip(learner.encoder.get_weights(), weak[0].learner.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_clusters_are_drawn_anew(store, validation_store, settings, trainings, tmp_path):
    arguments = settings(epochs=3, procedure=section("pseudo_clusters", num_pseudo_classes=6, refresh_every=2))
    learner, result = run_training(store, validation_store, **arguments, log_folder=tmp_path)
    assert list(trainings) == ["round-0", "round-1"]
    assert [row["stage"] for row in result.history] == [0, 0, 0, 1, 1]
    for number, (_, clustered, _) in enumerate(trainings.values()):
        table = parquet.read_table(tmp_path / f"clusters-{number}.parquet").to_pydict()
        assert table["id"] == clustered.ids.tolist()
        sizes = np.bincount(clustered.labels)
        assert len(sizes) == len(clustered.class_names) <= 6
        assert sizes.min() >= 2
    assert learner in [run.learner for run, _, _ in trainings.values()]


def test_spherical_kmeans_finds_directions():
    """Three bundles of directions whose lengths differ a hundredfold: plain k-means would go by the lengths."""
    random = np.random.default_rng(0)
    truth = np.repeat(np.arange(3), 20)
    rows = np.eye(3)[truth] + random.normal(0, 0.05, (60, 3))
    rows *= 10 ** random.uniform(-1, 1, (60, 1))
    for seed in range(4):
        found = spherical_kmeans(rows, 3, seed=seed)
        assert len({(a, b) for a, b in zip(truth.tolist(), found.tolist(), strict=True)}) == 3
    np.testing.assert_array_equal(spherical_kmeans(rows, 3, seed=1), spherical_kmeans(rows * 7, 3, seed=1))
    # every row is in the cluster whose mean direction is nearest to it: a fixed point
    found = spherical_kmeans(random.normal(size=(50, 4)), 5, seed=2)
    rows = np.random.default_rng(3).normal(size=(50, 4))
    found, unit = spherical_kmeans(rows, 5, seed=2), rows / np.linalg.norm(rows, axis=1, keepdims=True)
    means = np.stack([unit[found == n].sum(axis=0) for n in range(5)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_array_equal(np.argmax(unit @ means.T, axis=1), found)
    assert sorted(spherical_kmeans(np.eye(4), 4, seed=0)) == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="E_TOO_FEW_RECORDS"):
        spherical_kmeans(np.eye(3), 4, seed=0)


@pytest.mark.thorough
def test_an_ensemble_over_folds(store, validation_store, settings, trainings, tmp_path):
    arguments = settings(epochs=2, sampler=section("class_batches", classes=3, per_class=2))
    arguments["training"]["procedure"] = section("class_folds", folds=2)
    learner, result = run_training(store, validation_store, **arguments, log_folder=tmp_path)
    trained = [set(part.class_names) for _, part, _ in trainings.values()]
    judged = [set(options["validation_store"].class_names) for _, _, options in trainings.values()]
    assert trained == judged[::-1]
    assert not trained[0] & trained[1]
    vectors = embed_store(learner, validation_store)
    assert vectors.shape == (48, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    single = [embed_store(run.learner, validation_store) for run, _, _ in trainings.values()]
    cosines = sum(each @ each.T for each in single) / 2
    np.testing.assert_allclose(vectors @ vectors.T, cosines, atol=1e-5)
    values = json.loads((tmp_path / "folds.json").read_text())
    assert result.best_value == values["whole"]["map@r"]
    assert values["mean"]["map@r"] == pytest.approx(sum(each["map@r"] for each in values["validation"]) / 2)
    assert (len(result.history), result.best_epoch) == (6, 5)
    assert [w.shape for w in result.start_weights] == [tuple(w.shape) for w in learner.encoder.weights]
    export_encoder(learner.encoder, tmp_path / "served", RecordSpec(16))
    learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    np.testing.assert_allclose(embed_store(again, validation_store), vectors, rtol=1e-5)
    again.train_on_batch(store.read(np.arange(8)), store.labels[:8])  # it can be trained on


HUNDRED_STEPS = {  # epochs of 25 steps
    "class_folds": (2, {"folds": 2}),
    "pseudo_clusters": (4, {"num_pseudo_classes": 6, "refresh_every": 2}),
    "self_training": (1, {"stages": 2, "labelled_share": 0.5, "threshold": 0.0, "schedule": "mixture"}),
    "weak_labels": (2, {"pattern": r"/(\d)\.png$", "weak_epochs": 2, "labelled_share": 0.5}),
}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.thorough if n == "self_training" else ()) for n in HUNDRED_STEPS]
)
def test_cut_off_within_its_second_training_it_goes_on(name, store, validation_store, settings, monkeypatch, tmp_path):
    epochs, params = HUNDRED_STEPS[name]
    sampler = section("class_batches", classes=3, per_class=2)
    arguments = settings(epochs=epochs, steps_per_epoch=25, sampler=sampler, procedure=section(name, **params))
    arguments["loss"] = {"name": "proxy_nca", "params": {"include_positive": True}}
    straight = run_training(store, validation_store, **arguments)
    steps, plain = [], monitor.TrainingMonitor.on_train_batch_end

    def stopping(self, batch, logs=None):
        steps.append(self.progress.step + 1)
        if len(steps) == 60:
            os.kill(os.getpid(), signal.SIGTERM)
        plain(self, batch, logs)

    monkeypatch.setattr(monitor.TrainingMonitor, "on_train_batch_end", stopping)
    kept = {"checkpoint_folder": tmp_path, "run_key": "a"}
    with pytest.raises(ResourceError, match="E_INTERRUPTED"):
        run_training(store, validation_store, **arguments, **kept)
    again = run_training(store, validation_store, **arguments, **kept)
    assert len(steps) in (75, 100)  # no step is made twice
    assert again.result.history == straight.result.history
    for ours, theirs in zip(again.learner.get_weights(), straight.learner.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_mean_of_encoders_is_the_direction_of_the_sum():
    encoders = [keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]) for _ in range(2)]
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    unit = [np.asarray(e(rows)) / np.linalg.norm(e(rows), axis=1, keepdims=True) for e in encoders]
    total = sum(unit)
    found = combine_encoders(encoders, "mean")(rows)
    np.testing.assert_allclose(found, total / np.linalg.norm(total, axis=1, keepdims=True), rtol=1e-4)


def test_joined_results():
    results = [FitResult([{"loss": 1.0}] * n, n - 1, value, "", n) for n, value in ((2, 0.1), (3, 0.4), (2, 0.4))]
    assert procedure.best_result(results) == 1
    joined = procedure.join_results(results, 1)
    assert [row["stage"] for row in joined.history] == [0, 0, 1, 1, 1, 2, 2]
    assert [row["epoch"] for row in joined.history] == list(range(7))
    assert (joined.best_epoch, joined.best_value, joined.resumed_step) == (4, 0.4, 2)
    unjudged = [FitResult([], 1, None, "", 0)] * 3
    assert procedure.best_result(unjudged) == 2


def test_every_procedure_has_a_docstring():
    for name, cls in PROCEDURES.items():
        assert issubclass(cls, procedure.Procedure)
        assert name == cls.__module__.rpartition(".")[2]
        assert cls.__doc__


def test_rejects_unknown_names(store, settings):
    with pytest.raises(UsageError, match=r"E_NAME_UNKNOWN.*'self_training'"):
        run_training(store, None, **settings(procedure=section("self_trainin")))
