"""The training of a trial: as many samples in each, and folds of classes."""

from types import SimpleNamespace

import numpy as np
import pytest

from anchorage.data.store import Record, RecordSpec, RecordStore, write_store
from anchorage.errors import UsageError
from anchorage.tuning import training
from anchorage.tuning.settings import TuningSettings
from anchorage.tuning.training import trial_training
from anchorage.tuning.trial_settings import changed_steps, trial_settings

SETTINGS = {
    "seed": 3,
    "encoder": {"name": "small", "embedding_size": 4, "frozen_norm": None, "params": {"widths": [4]}},
    "loss": {"name": "contrastive", "params": {}},
    "training": {
        "epochs": 7,
        "steps_per_epoch": 12,
        "sampler": {"name": "class_batches", "params": {"classes": 8, "per_class": 4}},
        "optimizer": {"name": "sgd", "learning_rate": 0.1, "warmup_steps": 6, "frozen_steps": {"trunk": 9}},
        "augmentation": {},
        "methods": None,
        "procedure": None,
    },
}
CLASSES = {"choices": [4, 8, 16], "default": 8}
STORE = SimpleNamespace(
    labels=np.repeat(np.arange(32), 5), class_names=[f"{n:02d}" for n in range(32)], spec=RecordSpec(8)
)


def settings(**changes):
    return {**SETTINGS, "training": {**SETTINGS["training"], **changes}}


@pytest.mark.parametrize(("classes", "steps", "warmup", "frozen"), [(4, 24, 12, 18), (8, 12, 6, 9), (16, 6, 3, 4)])
def test_every_size_of_a_batch_sees_as_many_samples(classes, steps, warmup, frozen):
    given = settings(sampler={"name": "class_batches", "params": {"classes": CLASSES, "per_class": 4}})
    trial = trial_settings(given, {"training.sampler.params.classes": classes}, STORE)["training"]
    assert trial["sampler"]["params"] == {"classes": classes, "per_class": 4}
    assert trial["steps_per_epoch"] == steps  # 12 steps of 8 x 4 rows are 384
    assert steps * classes * 4 == 12 * 8 * 4
    assert trial["optimizer"]["warmup_steps"] == warmup
    assert trial["optimizer"]["frozen_steps"] == {"trunk": frozen}
    assert trial["optimizer"]["learning_rate"] == 0.1


@pytest.mark.parametrize(
    ("steps", "classes", "changed"),
    [
        (12, 8, {}),
        (12, 4, {"steps_per_epoch": 24, "optimizer.warmup_steps": 12, "optimizer.frozen_steps.trunk": 18}),
        # an epoch has all images by itself
        (None, 16, {"optimizer.warmup_steps": 3, "optimizer.frozen_steps.trunk": 4}),
    ],
)
def test_the_steps_that_go_with_a_size_of_a_batch(steps, classes, changed):
    sampler = {"name": "class_batches", "params": {"classes": CLASSES, "per_class": 4}}
    given = settings(sampler=sampler, steps_per_epoch=steps)
    found = changed_steps(given, {"training.sampler.params.classes": classes}, STORE)
    assert found == {f"training.{path}": value for path, value in changed.items()}


def test_other_ranges_change_no_steps():
    given = {**SETTINGS, "loss": {"name": "contrastive", "params": {"neg_margin": {"low": 0.1, "high": 0.5}}}}
    assert changed_steps(given, {"loss.params.neg_margin": 0.2}, STORE) == {}


def test_a_choice_of_samplers_counts_samples_too():
    pairs = {"name": "n_pair_batches", "params": {"pairs": 6}}
    given = settings(sampler={"choices": [{"name": "class_batches", "params": {"classes": 8, "per_class": 4}}, pairs]})
    trial = trial_settings(given, {"training.sampler": "n_pair_batches"}, STORE)["training"]
    assert trial["sampler"] == pairs
    assert trial["steps_per_epoch"] == 32  # of 12 rows


def test_other_ranges_leave_the_steps_alone():
    given = {**SETTINGS, "loss": {"name": "contrastive", "params": {"neg_margin": {"low": 0.1, "high": 0.5}}}}
    trial = trial_settings(given, {"loss.params.neg_margin": 0.2, "tuner/bracket": 1, "training.epochs": 2}, STORE)
    assert trial["loss"]["params"] == {"neg_margin": 0.2}
    assert trial["training"] == {**SETTINGS["training"], "epochs": 2}


@pytest.fixture
def store(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8)
    records = [Record(f"{n}.png", f"class {n % 8}", "both", image) for n, image in enumerate(images)]
    write_store(tmp_path / "train", records, RecordSpec(8))
    return RecordStore(tmp_path / "train")


def test_the_objective_is_the_mean_over_folds_of_classes(store, monkeypatch):
    held_out, results, reports = [], [], []
    train_run = training.train_run

    def spy(rest, fold, **trial):
        assert not set(rest.class_names) & set(fold.class_names)
        held_out.extend(fold.class_names)
        results.append(train_run(rest, fold, **trial))
        return results[-1]

    monkeypatch.setattr(training, "train_run", spy)
    given = settings(sampler={"name": "class_batches", "params": {"classes": 2, "per_class": 2}}, steps_per_epoch=2)
    given["training"]["optimizer"] = {"name": "sgd", "learning_rate": 0.1}
    train = trial_training(store, None, given, TuningSettings(folds=2, epochs=1))
    metrics = train({}, lambda samples, objective: reports.append((samples, objective)))
    assert sorted(held_out) == store.class_names
    values = [run.result.history[1]["val_map@r"] for run in results]
    assert reports == [(8, values[0]), (16, pytest.approx(np.mean(values)))]
    assert metrics["map@r"] == pytest.approx(np.mean(values))


def test_folds_and_procedures_do_not_go_together(store):
    given = settings(procedure={"name": "class_folds", "params": {}})
    with pytest.raises(UsageError, match=r"E_FOLDS: .*leave out `training\.procedure`"):
        trial_training(store, None, given, TuningSettings(folds=2))
    with pytest.raises(UsageError, match="E_FOLDS: Expected at least two folds of two classes"):
        trial_training(store, None, SETTINGS, TuningSettings(folds=5))
