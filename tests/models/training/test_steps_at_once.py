"""Steps of a head that are made at once: the same training, which stops and goes on where it may."""

import os
import signal

import numpy as np
import pytest

from anchorage.data.store import Record, RecordSpec, RecordStore, write_store
from anchorage.errors import ResourceError
from anchorage.training import building
from anchorage.training.monitor import TrainingMonitor
from anchorage.training.run import train_run

STEPS = 130  # not a multiple of the steps at once
SETTINGS = {
    "encoder": {"name": "head", "embedding_size": None},
    "loss": {"name": "multi_similarity"},
    "training": {
        "epochs": 2,
        "steps_per_epoch": STEPS,
        "sampler": {"name": "class_batches", "params": {"classes": 4, "per_class": 2}},
        "optimizer": {"name": "adamw", "learning_rate": 1e-2},
    },
    "seed": 3,
    "verbose": 0,
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    def draw(seed):
        random = np.random.default_rng(seed)
        folder = tmp_path_factory.mktemp("vectors")
        means = random.normal(size=(8, 6))
        vectors = (np.repeat(means, 6, axis=0) + random.normal(size=(48, 6))).astype("float32")
        records = (Record(f"{row}", f"{seed} {row // 6}", "both", vector) for row, vector in enumerate(vectors))
        write_store(folder, records, RecordSpec(dimension=6))
        return RecordStore(folder)

    return draw(0), draw(1)


def test_the_same_training_as_step_by_step(stores, monkeypatch):
    learner, result = train_run(*stores, **SETTINGS)
    assert learner.steps_per_execution == 16
    monkeypatch.setattr(building, "_EXECUTION", 1)
    learner, wanted = train_run(*stores, **SETTINGS)
    assert learner.steps_per_execution == 1
    assert len(result.history) == 3
    for row, other in zip(result.history, wanted.history, strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)


@pytest.mark.thorough
def test_a_stopped_training_goes_on(stores, tmp_path, monkeypatch):
    straight = train_run(*stores, **SETTINGS).result
    kept = {"checkpoint_folder": tmp_path, "run_key": "a"}
    with monkeypatch.context() as patch:
        stop = lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
        patch.setattr(TrainingMonitor, "on_train_batch_begin", stop)
        with pytest.raises(ResourceError, match=r"E_INTERRUPTED.*after step 16\b"):
            train_run(*stores, **SETTINGS, **kept)
    again = train_run(*stores, **SETTINGS, **kept).result
    assert again.resumed_step == 16
    for row, other in zip(again.history, straight.history, strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)
