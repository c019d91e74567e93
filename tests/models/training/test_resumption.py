"""A training stopped within an epoch goes on as if nothing had happened, whatever it keeps beside its weights."""

import json
import subprocess
import sys

import numpy as np
import pytest

from anchorage.training.checkpoints import Checkpoints

ADAMW = {"name": "adamw", "learning_rate": 1e-3, "rate_factors": {"proxies": 100.0}}
AVERAGE = {"name": "moving_average", "params": {"momentum": 0.8}}
CASES = {
    "accumulated gradients": {"optimizer": {**ADAMW, "params": {"gradient_accumulation_steps": 3}}},
    "averaged weights": {"methods": [AVERAGE]},
    "both": {"optimizer": {**ADAMW, "params": {"gradient_accumulation_steps": 3}}, "methods": [AVERAGE]},
    "a frozen trunk": {"optimizer": {**ADAMW, "frozen_steps": {"trunk": 9}}},
    "half precision": {"precision": "mixed_float16"},
}


def is_thorough(item):
    """What `both` has together, one by one; `test_frozen_norms` and `test_fit` have the others, too."""
    return hasattr(item, "callspec") and item.callspec.params["name"] != "both"


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_stopped_within_an_epoch(goes_on, settings, name):
    goes_on(settings(**CASES[name]), stops=[7])


TRAIN = """
import json
import os
import signal
import sys

import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from anchorage.data.store import RecordStore
from anchorage.errors import ResourceError
from anchorage.training import monitor
from anchorage.training.run import train_run

store, other = map(RecordStore, sys.argv[1:3])
settings = json.loads(sys.argv[4])


def train(name):
    return train_run(store, other, checkpoint_folder=f"{sys.argv[3]}/{name}", **settings).result


def stopping(self, batch, logs=None):
    if self.progress.step == 6:
        os.kill(os.getpid(), signal.SIGTERM)
    plain(self, batch, logs)


straight = train("straight")
plain, monitor.TrainingMonitor.on_train_batch_end = monitor.TrainingMonitor.on_train_batch_end, stopping
try:
    train("stopped")
except ResourceError as error:
    assert error.code == "E_INTERRUPTED"
again = train("stopped")
print(json.dumps([straight.history, again.history, again.resumed_step]))
"""


@pytest.mark.thorough
def test_two_replicas_stopped_within_an_epoch(store, validation_store, settings, tmp_path):
    arguments = json.dumps(settings(**CASES["both"], strategy="mirrored"))
    command = [sys.executable, "-c", TRAIN, *map(str, (store.folder, validation_store.folder, tmp_path)), arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    straight, again, resumed_step = json.loads(done.stdout.splitlines()[-1])
    assert (resumed_step, again) == (7, straight)
    found, expected = (Checkpoints(tmp_path / name).newest() for name in ("stopped", "straight"))
    assert found.name == expected.name == "step-00000020"
    for name in ("model.npz", "optimizer.npz", "metrics.npz"):
        values = np.load(found / name)
        for key, value in np.load(expected / name).items():
            np.testing.assert_array_equal(values[key], value, err_msg=f"{name} {key}")
