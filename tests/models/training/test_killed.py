"""A training killed by SIGKILL in another process goes on in this one as if nothing had happened."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from anchorage import storage
from anchorage.training.run import train_run

_CHILD = """
import importlib, json, os, signal, sys
from anchorage.data.store import RecordStore
from anchorage.training.checkpoints import STATE, Checkpoints
from anchorage.training.run import train_run

train, val, folder, settings, module, name = sys.argv[1:]
honest, saves = Checkpoints.save, []
module = importlib.import_module(module)
write = getattr(module, name)

def die_before_the_state(*args):
    if os.path.basename(args[-1]) == STATE:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*args)

def save(self, learner, progress):
    saves.append(progress.step)
    if len(saves) == 4:  # in the middle of the checkpoint of epoch 3: its folder is there, its state is not
        setattr(module, name, die_before_the_state)
    return honest(self, learner, progress)

Checkpoints.save = save
train_run(RecordStore(train), RecordStore(val), checkpoint_folder=folder, **json.loads(settings))
"""


@pytest.fixture(scope="module")
def undisturbed(store, validation_store, settings):
    return train_run(store, validation_store, **settings())


@pytest.fixture
def killed(store, validation_store, settings, tmp_path):
    """Trains in a process, on a machine of its own, that is killed when `name` of `module` would write the state."""

    def train(folder, module, name):
        machine = {"TMPDIR": str(tmp_path / "machine"), "ANCHORAGE_CACHE": str(tmp_path / "machine/cache")}
        (tmp_path / "machine").mkdir()
        arguments = [str(store.folder), str(validation_store.folder), str(folder), json.dumps(settings()), module, name]
        program = [sys.executable, "-c", _CHILD, *arguments]
        assert subprocess.run(program, env={**os.environ, **machine}, check=False).returncode == -9

    return train


def goes_on(found, expected):
    (learner, result), (other, wanted) = found, expected
    assert result.resumed_step == 10
    assert result.history == wanted.history
    for weights, others in zip(learner.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, others)


@pytest.mark.thorough
def test_killed_while_writing_a_checkpoint(store, validation_store, settings, killed, undisturbed, tmp_path):
    folder = tmp_path / "checkpoints"
    killed(folder, "anchorage.training.checkpoints", "write_hashed")
    assert any(path.name.startswith(".tmp-") for path in folder.iterdir())
    goes_on(train_run(store, validation_store, checkpoint_folder=folder, **settings()), undisturbed)
    assert not any(path.name.startswith(".tmp-") for path in folder.iterdir())


@pytest.mark.thorough
def test_killed_while_copying_a_checkpoint_to_a_bucket(
    store, validation_store, settings, killed, undisturbed, tmp_path, bucket
):
    killed(bucket, "anchorage.storage.folders", "send_object")
    copied = set(storage.list_files(bucket))
    assert {"step-00000010/state.json", "step-00000015/model.npz"} <= copied
    assert "step-00000015/state.json" not in copied
    assert not (tmp_path / "cache").exists()  # here nothing is known of the other machine
    goes_on(train_run(store, validation_store, checkpoint_folder=bucket, **settings()), undisturbed)
    assert "step-00000020/state.json" in storage.list_files(bucket)
