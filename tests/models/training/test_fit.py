"""The loop around `fit`: resuming, stopping, choosing the best epoch."""

import json
import os
import signal

import keras
import numpy as np
import pytest

from anchorage.data.sampling import ClassBatches
from anchorage.errors import DataError, ResourceError
from anchorage.training import monitor, run
from anchorage.training.fit import FitResult, fit_learner
from anchorage.training.loggers import TensorBoard
from anchorage.training.run import train_run
from anchorage.training.validation import validate


class At(keras.callbacks.Callback):
    """Does something after one step of the training."""

    def __init__(self, step, act):
        super().__init__()
        self.step, self.act, self.seen = step, act, 0

    def on_train_batch_end(self, batch, logs=None):
        self.seen += 1
        if self.seen == self.step:
            self.act()


class CrashError(Exception):
    pass


def crash():
    raise CrashError


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


class Rig:
    """A training of 4 epochs of 5 steps that can be disturbed."""

    def __init__(self, store, validation_store, build):
        self.store, self.validation_store, self.learner = store, validation_store, build

    def fit(self, learner=None, **options):
        learner = learner or self.learner()
        sampler = ClassBatches(self.store.labels, classes=4, per_class=2, seed=3)
        options = {"epochs": 4, "steps_per_epoch": 5, "seed": 3, "verbose": 0, **options}
        return learner, fit_learner(learner, self.store, self.validation_store, sampler, **options)


@pytest.fixture(scope="module")
def rig(store, validation_store, build):
    return Rig(store, validation_store, build)


@pytest.fixture(scope="module")
def undisturbed(rig, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    learner, result = rig.fit(checkpoint_folder=folder, loggers=[TensorBoard(str(folder / "logs"))])
    return learner.get_weights(), result, folder


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_history_and_log(undisturbed):
    _, result, _ = undisturbed
    start, *epochs = result.history
    assert [row["epoch"] for row in result.history] == [0, 1, 2, 3, 4]
    assert {"val_recall@1", "val_map@r", "effective_rank"} <= set(start)
    assert not {"loss", "learning_rate"} & set(start)
    assert {"loss", "learning_rate", "val_recall@1", "val_map@r"} <= set(epochs[0])
    # linear decay to 0 over 20 steps
    assert [row["learning_rate"] for row in epochs] == pytest.approx([75e-5, 50e-5, 25e-5, 0.0], abs=1e-9)
    values = [row["val_map@r"] for row in result.history]
    assert result.best_value == max(values)
    assert result.best_epoch == values.index(max(values))
    assert (bool(result.stop_reason), result.resumed_step) == (False, 0)


def test_tensorboard_counts_epochs_as_the_history_does(undisturbed):
    tf = pytest.importorskip("tensorflow")
    _, result, folder = undisturbed
    logged = {}
    for path in sorted((folder / "logs" / "tensorboard").rglob("events.out.tfevents.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                if value.tag in ("epoch_map@r", "epoch_loss"):
                    logged[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    expected = {("epoch_map@r", row["epoch"]): row["val_map@r"] for row in result.history}
    expected |= {("epoch_loss", row["epoch"]): row["loss"] for row in result.history[1:]}
    assert logged == pytest.approx(expected)


def test_epoch_0_is_the_network_before_the_first_step(rig, undisturbed):
    _, result, _ = undisturbed
    untrained = rig.learner()
    assert same(untrained.encoder.get_weights(), result.start_weights)
    start = {name: result.history[0][f"val_{name}"] for name in ("recall@1", "map@r")}
    assert start == validate(untrained, rig.validation_store)


def test_a_training_that_does_harm_ends_early_and_keeps_the_network_before_it(rig, monkeypatch, capsys):
    values = iter([0.4, 0.1, 0.12, 0.11, 0.9])
    monkeypatch.setattr(monitor, "validate", lambda *_: {"recall@1": 0.0, "map@r": next(values)})
    learner, result = rig.fit(epochs=9)
    assert (result.best_epoch, result.best_value, bool(result.stop_reason)) == (0, 0.4, True)
    assert len(result.history) == 1 + 3
    assert same(learner.encoder.get_weights(), rig.learner().encoder.get_weights())
    output = capsys.readouterr().out
    assert "stopped after epoch 3 of 9" in output
    assert "40.0% before the first step and at most 12.0% since" in output


@pytest.mark.thorough
def test_a_short_training_that_does_harm_ends_with_a_note(rig, monkeypatch, capsys):
    values = iter([0.4, 0.1, 0.2])
    monkeypatch.setattr(monitor, "validate", lambda *_: {"recall@1": 0.0, "map@r": next(values)})
    _, result = rig.fit(epochs=2)
    assert (result.best_epoch, result.stop_reason) == (0, "")
    assert "no epoch is better" in capsys.readouterr().out


@pytest.mark.thorough
def test_a_start_that_may_not_be_kept_is_judged_all_the_same(rig, monkeypatch):
    values = iter([0.4, 0.1, 0.12, 0.11, 0.1])
    monkeypatch.setattr(monitor, "validate", lambda *_: {"recall@1": 0.0, "map@r": next(values)})
    _, result = rig.fit(keep_start=False)
    assert (result.best_epoch, result.best_value, len(result.history)) == (2, 0.12, 5)


@pytest.mark.thorough
def test_a_training_killed_before_its_first_step_ends_as_if_it_had_not_been(rig, undisturbed, tmp_path):
    with pytest.raises(CrashError):
        rig.fit(checkpoint_folder=tmp_path, callbacks=[At(1, crash)])
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000000"]
    learner, result = rig.fit(checkpoint_folder=tmp_path)
    assert result.history == undisturbed[1].history
    assert same(learner.get_weights(), undisturbed[0])
    assert same(result.start_weights, undisturbed[1].start_weights)


@pytest.mark.thorough  # else a training that was stopped would not end as one that was not
def test_the_same_seed_gives_the_same_learner(rig, undisturbed):
    learner, result = rig.fit()
    assert same(learner.get_weights(), undisturbed[0])
    assert result.history == undisturbed[1].history


@pytest.mark.parametrize(("step", "kept"), [pytest.param(5, 0, marks=pytest.mark.thorough), (13, 10)])
def test_resumed_after_a_crash_equals_undisturbed(rig, undisturbed, tmp_path, step, kept):
    with pytest.raises(CrashError):
        rig.fit(checkpoint_folder=tmp_path, callbacks=[At(step, crash)])
    learner, result = rig.fit(checkpoint_folder=tmp_path)
    assert result.resumed_step == kept
    assert result.history == undisturbed[1].history
    assert same(learner.get_weights(), undisturbed[0])


@pytest.mark.parametrize("step", [3, pytest.param(10, marks=pytest.mark.thorough)])
def test_sigterm_saves_the_step_and_asks_to_be_resumed(rig, undisturbed, tmp_path, step):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ResourceError, match="E_INTERRUPTED: Interrupted after step") as caught:
        rig.fit(checkpoint_folder=tmp_path, callbacks=[At(step, terminate)])
    assert caught.value.exit_status == 4
    assert signal.getsignal(signal.SIGTERM) == before
    learner, result = rig.fit(checkpoint_folder=tmp_path)
    assert result.resumed_step == step
    assert result.history == undisturbed[1].history
    assert same(learner.get_weights(), undisturbed[0])


def test_a_finished_training_is_not_done_again(rig, undisturbed):
    weights, finished, folder = undisturbed
    learner, result = rig.fit(checkpoint_folder=folder, callbacks=[At(1, crash)])
    assert same(learner.get_weights(), weights)
    assert (result.history, result.resumed_step) == (finished.history, 20)


def test_stops_when_patience_runs_out_and_restores_the_best(rig, monkeypatch):
    values = iter([0.2, 0.3, 0.5, 0.4, 0.5, 0.9])  # an equal value is no improvement
    two, _ = rig.fit(epochs=2, keep_start=False)
    monkeypatch.setattr(monitor, "validate", lambda *_: {"recall@1": 0.0, "map@r": next(values)})
    learner, result = rig.fit(epochs=9, patience=2)
    assert (result.best_epoch, result.best_value, bool(result.stop_reason)) == (2, 0.5, True)
    assert [row["val_map@r"] for row in result.history] == [0.2, 0.3, 0.5, 0.4, 0.5]
    assert same(learner.get_weights(), two.get_weights())
    assert "has not improved for 2 epochs" in result.stop_reason


def test_without_validation_the_last_weights_stay(rig, store):
    learner = rig.learner()
    sampler = ClassBatches(store.labels, classes=4, per_class=2, seed=3)
    result = fit_learner(learner, store, None, sampler, epochs=1, verbose=0)
    assert {"loss", "learning_rate"} <= set(result.history[1])
    assert not [name for row in result.history for name in row if name.startswith("val_")]
    assert (result.best_epoch, result.best_value) == (1, None)


class BreakingLoss(keras.layers.Layer):
    """Becomes nan at one call, counted from 1."""

    def __init__(self, breaks_at):
        super().__init__(dtype="float32")
        self.breaks_at = breaks_at

    def build(self, embeddings_shape, labels_shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, embeddings, labels):
        self.calls.assign_add(1.0)
        factor = keras.ops.where(self.calls >= self.breaks_at, float("nan"), 1.0)
        return keras.ops.mean(keras.ops.square(embeddings[:, 0])) * factor


def test_nan_stops_at_once_and_names_the_records(rig, store, tmp_path):
    learner = rig.learner()
    learner = type(learner)(learner.encoder, BreakingLoss(8))
    learner.compile(optimizer="sgd")
    with pytest.raises(DataError, match="E_LOSS_NOT_FINITE: In epoch 2, step 8, the loss became nan") as caught:
        rig.fit(learner, checkpoint_folder=tmp_path)
    assert caught.value.exit_status == 3
    report = json.loads((tmp_path / "not-finite.json").read_text())
    rows = ClassBatches(store.labels, classes=4, per_class=2, seed=3).batch(7)
    assert report["record_ids"] == store.ids[rows].tolist()
    assert report["last_checkpoint"] == str(tmp_path / "step-00000005")
    with np.load(tmp_path / "step-00000005/model.npz") as arrays:
        assert all(np.isfinite(arrays[name]).all() for name in arrays.files)


def test_weights_that_are_not_finite_are_never_kept(rig, tmp_path):
    learner = rig.learner()

    def spoil():
        learner.encoder.get_layer("projection").bias.assign([np.inf] * 8)

    with pytest.raises(DataError, match="E_LOSS_NOT_FINITE: In epoch 1, step 5, weights became"):
        rig.fit(learner, checkpoint_folder=tmp_path, callbacks=[At(5, spoil)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["not-finite.json", "step-00000000"]


def test_embeddings_that_are_not_finite_stop_the_training_though_weights_are(rig, tmp_path):
    """Weights near the end of the range of float32, and so many of them that their products are beyond it."""
    learner = rig.learner()

    def overflow():
        layer = learner.encoder.get_layer("projection")
        layer.kernel.assign(np.full(layer.kernel.shape, 3e38))

    with pytest.raises(DataError, match="E_LOSS_NOT_FINITE: In epoch 1, step 5, embeddings became NaN"):
        rig.fit(learner, checkpoint_folder=tmp_path, callbacks=[At(5, overflow)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["not-finite.json", "step-00000000"]


def test_rejects_stored_weights_that_are_not_finite_before_the_first_step(rig):
    learner = rig.learner()
    learner.encoder.get_layer("projection").bias.assign([np.nan] * 8)
    with pytest.raises(DataError, match="E_LOSS_NOT_FINITE: Before the first step, embeddings became NaN"):
        rig.fit(learner)


def test_losses_that_ask_for_the_sizes_of_the_classes_get_them(store, settings, monkeypatch):
    monkeypatch.setattr(run, "fit_learner", lambda *_, **__: FitResult([], 0, None, "", 0))
    loss = {"name": "soprc", "params": {"prior_mul": 0.1}}
    learner, _ = train_run(store, None, **{**settings(epochs=1, steps_per_epoch=1), "loss": loss})
    assert learner.loss_layer.class_counts == [list(store.labels).count(label) for label in range(8)]


@pytest.mark.parametrize("precision", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.thorough)])
def test_mixed_precision_trains_and_leaves_the_policy_alone(store, validation_store, settings, precision):
    arguments = settings(precision=precision, epochs=1)
    learner, result = train_run(store, validation_store, **arguments)
    assert np.isfinite(result.history[1]["loss"])
    assert learner.encoder.get_layer("trunk").get_layer("stage_1_0").compute_dtype == precision.removeprefix("mixed_")
    assert all(w.dtype == "float32" for w in learner.trainable_weights)
    assert keras.config.dtype_policy().name == "float32"
