"""From plain settings to a trained learner."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from anchorage.errors import UsageError
from anchorage.training.optimizers import AdamW
from anchorage.training.run import train_run
from anchorage.training.schedules import WarmupDecay


@pytest.fixture(scope="module")
def run(store, validation_store, settings):
    arguments = settings(epochs=12, steps_per_epoch=0, augmentation={})
    return train_run(store, validation_store, **arguments)


def test_settings_reach_their_parts(run):
    learner, result = run
    assert learner.encoder.output_shape == (None, 8)
    assert learner.loss_layer.num_classes == 8
    assert isinstance(learner.optimizer, AdamW)
    assert learner.optimizer.rate_factors == {"proxies": 100.0}
    schedule = learner.optimizer.get_config()["learning_rate"]
    assert schedule["class_name"] == WarmupDecay.__name__
    # 8 classes, 4 a batch: a round is 2 steps
    assert schedule["config"]["total_steps"] == 24
    assert int(learner.optimizer.iterations.numpy()) == 24
    assert len(result.history) == 13


def test_training_teaches_what_holds_for_unseen_classes(run):
    """Classes are colours with strong noise: the mean over the picture tells them apart, also new ones."""
    assert run.result.history[-1]["loss"] < 0.8 * run.result.history[1]["loss"]
    assert run.result.best_value > run.result.history[0]["val_map@r"] + 0.05


def test_a_loaded_learner_predicts_the_same(run, tmp_path):
    run.learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype="uint8")
    np.testing.assert_array_equal(run.learner.predict(images, verbose=0), again.predict(images, verbose=0))
    np.testing.assert_array_equal(run.learner.loss_layer.proxies, again.loss_layer.proxies)
    assert int(again.optimizer.iterations.numpy()) == 24


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": {"name": "class_batches", "params": {"classes": 99, "per_class": 2}}}, "E_TOO_FEW_CLASSES"),
        ({"sampler": {"name": "balanced", "params": {}}}, "E_NAME_UNKNOWN"),
        ({"sampler": {"name": "shuffled_batches", "params": {"size": 2}}}, "E_PARAMETER_UNKNOWN"),
        ({"optimizer": {"name": "lion", "learning_rate": 1e-3}}, "E_NAME_UNKNOWN"),
        ({"augmentation": {"blur": 0.5}}, "E_NAME_UNKNOWN"),
        ({"monitor": "recall@1"}, "E_PARAMETER_UNKNOWN: training takes .*'patience'.* Received unknown: .'monitor'"),
    ],
)
def test_wrong_settings_are_named(store, settings, change, message):
    with pytest.raises(UsageError, match=message):
        train_run(store, None, **settings(**change))


@pytest.mark.thorough
def test_a_saved_learner_loads_in_a_new_process(run, tmp_path):
    run.learner.save(tmp_path / "learner.keras")
    code = (
        f"import anchorage; print(len(anchorage.load_learner({str(tmp_path / 'learner.keras')!r}).loss_layer.weights))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(len(run.learner.loss_layer.weights))
