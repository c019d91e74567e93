"""A training killed by SIGKILL in another process goes on in this one as if nothing had happened."""

import json
import subprocess
import sys

import numpy as np

from anchorage.training.run import train_run

_CHILD = """
import json, os, signal, sys
from anchorage.data.store import RecordStore
from anchorage.training import checkpoints
from anchorage.training.run import train_run

honest, saves = checkpoints.Checkpoints.save, []

def save(self, learner, progress):
    saves.append(progress.step)
    if len(saves) == 4:  # in the middle of the checkpoint of epoch 3: its folder is there, its state is not
        write = checkpoints.write_hashed
        checkpoints.write_hashed = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
    return honest(self, learner, progress)

checkpoints.Checkpoints.save = save
train, val, folder, settings = sys.argv[1:]
train_run(RecordStore(train), RecordStore(val), checkpoint_folder=folder, **json.loads(settings))
"""


def test_killed_while_writing_a_checkpoint(store, validation_store, settings, tmp_path):
    arguments = settings()
    paths = [str(store.folder), str(validation_store.folder), str(tmp_path)]
    child = subprocess.run([sys.executable, "-c", _CHILD, *paths, json.dumps(arguments)], check=False)
    assert child.returncode == -9
    assert any(path.name.startswith(".tmp-") for path in tmp_path.iterdir())

    learner, result = train_run(store, validation_store, checkpoint_folder=tmp_path, **arguments)
    undisturbed, wanted = train_run(store, validation_store, **arguments)
    assert result.resumed_step == 10
    assert result.history == wanted.history
    for found, expected in zip(learner.get_weights(), undisturbed.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not any(path.name.startswith(".tmp-") for path in tmp_path.iterdir())
