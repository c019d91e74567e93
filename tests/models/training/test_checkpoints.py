"""Checkpoints on disk: whole or absent, whatever happens to the process that writes them."""

import errno
import json
import shutil
import subprocess
import sys
from contextlib import nullcontext

import keras
import numpy as np
import pytest

from anchorage.errors import ResourceError, UsageError
from anchorage.training.checkpoints import Checkpoints, Progress


class Learner:
    """As much of a model as a checkpoint reads and writes; every array holds one number."""

    def __init__(self, value, shape=(3,)):
        self.variables = [keras.Variable(np.full(shape, value, "float32"))]
        self.metrics_variables = [keras.Variable(np.full((), value, "float32"))]
        self.optimizer = self
        self.values = lambda: {float(v) for v in np.ravel(self.variables[0])}


def saved(folder, *steps, best=None):
    """Checkpoints of epoch 0 and of these steps."""
    checkpoints = Checkpoints(folder)
    for step in (0, *steps):
        progress = Progress(step=step, history=[{"loss": 0.2}], best_step=best or step, best_value=0.5)
        checkpoints.save(Learner(step), progress)
    return checkpoints


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_keeps_the_newest_and_the_best(tmp_path):
    checkpoints = saved(tmp_path, 5)
    for step in (10, 15, 20):
        checkpoints.save(Learner(step), Progress(step=step, best_step=5, best_value=0.5))
    assert names(tmp_path) == ["step-00000000", "step-00000005", "step-00000020"]
    learner = Learner(0)
    progress = checkpoints.resume(learner)
    assert (progress.step, progress.best_step, learner.values()) == (20, 5, {20.0})
    checkpoints.restore_best(learner, progress)
    assert learner.values() == {5.0}


@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 4), ("float16", 2), ("bfloat16", 2), ("float64", 8), ("int8", 1)]
)
def test_room_is_asked_for_by_the_size_of_each_number(tmp_path, monkeypatch, dtype, size):
    asked = []
    monkeypatch.setattr(
        "anchorage.training.checkpoints.disk_trouble", lambda folder, size: asked.append(size) or nullcontext()
    )
    learner = Learner(0)
    learner.variables = [keras.Variable(np.zeros((5, 4)), dtype=dtype)]
    learner.metrics_variables = []
    monkeypatch.setattr("anchorage.training.checkpoints._parts", lambda learner: {"model": learner.variables})
    Checkpoints(tmp_path).save(learner, Progress(step=1, best_step=1, best_value=0.5))
    assert asked == [20 * size]


def test_keeps_the_network_before_the_first_step(tmp_path):
    checkpoints = saved(tmp_path, 5, 10)
    assert names(tmp_path) == ["step-00000000", "step-00000010"]
    learner = Learner(10)
    learner.encoder = type("Encoder", (), {"weights": learner.variables})
    [weights] = checkpoints.start_weights(learner)
    np.testing.assert_array_equal(weights, [0.0, 0.0, 0.0])


def test_a_fresh_folder_starts_from_nothing(tmp_path):
    assert Checkpoints(tmp_path / "new").resume(Learner(0)) == Progress()
    assert Checkpoints(tmp_path / "new").newest() is None


@pytest.mark.parametrize("name", ["model.npz", "optimizer.npz", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_checkpoint_is_left_aside(tmp_path, name, damage, caplog):
    checkpoints = saved(tmp_path, 5)
    checkpoints.save(Learner(10), Progress(step=10, best_step=5))
    path = tmp_path / "step-00000010" / name
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[len(data) // 2] ^= 255
        path.write_bytes(data[:-7] if damage == "cut" else data)
    learner = Learner(0)
    assert (checkpoints.resume(learner).step, learner.values()) == (5, {5.0})
    assert "step-00000010 is damaged" in caplog.text


@pytest.mark.parametrize(("lost", "left"), [("step-00000005", 0), ("step-00000000", None)])
def test_a_checkpoint_without_its_best_or_its_start_is_not_gone_on_from(tmp_path, lost, left):
    checkpoints = saved(tmp_path, 5)
    checkpoints.save(Learner(10), Progress(step=10, best_step=5))
    shutil.rmtree(tmp_path / lost)
    learner = Learner(-1)
    assert checkpoints.resume(learner).step == 0
    assert learner.values() == {-1.0 if left is None else left}


def test_another_training_is_refused(tmp_path):
    Checkpoints(tmp_path, "one").save(Learner(0), Progress())
    with pytest.raises(UsageError, match=r"E_CHECKPOINT_OTHER: .* Expected run key 'two'\. Received: 'one'"):
        Checkpoints(tmp_path, "two").resume(Learner(0))
    with pytest.raises(UsageError, match=r"E_CHECKPOINT_OTHER: .*model\.npz belongs to another model"):
        Checkpoints(tmp_path, "one").resume(Learner(0, shape=(4,)))


def test_a_full_disk_leaves_the_checkpoints_before(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 5)

    def full(file, **arrays):
        file.write(b"PK\x03\x04 and then")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(ResourceError, match="E_DISK_FULL") as caught:
        checkpoints.save(Learner(10), Progress(step=10))
    assert caught.value.exit_status == 4
    assert names(tmp_path) == ["step-00000000", "step-00000005"]


_KILLED = """
import os, shutil, signal, sys
import keras, numpy as np
from anchorage.training.checkpoints import Checkpoints, Progress

class Learner:
    def __init__(self, value):
        self.variables = [np.full((3,), value, "float32")]
        self.metrics_variables = [np.full((), value, "float32")]
        self.optimizer = self

keras.ops.convert_to_numpy = np.asarray  # the child must not wake TensorFlow's threads
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
count, armed, source = [0], [0], sys.argv[1]

def step(event, *args):
    if armed[0] and event in EVENTS:
        count[0] += 1
        if count[0] == armed[0]:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(step)
honest = os.fsync
os.fsync = lambda handle: (step("open"), honest(handle))
for n in range(1, 1000):
    folder = f"{sys.argv[2]}/{n}"
    shutil.copytree(source, folder)
    child = os.fork()
    if not child:
        armed[0] = n
        Checkpoints(folder).save(Learner(15), Progress(step=15, best_step=15, best_value=0.9))
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


def test_killed_before_every_operation(tmp_path):
    """The next run finds the old checkpoint or the new one, whole, and clears what the killed one left."""
    before, cases = tmp_path / "before", tmp_path / "cases"
    cases.mkdir()
    saved(before, 5)
    Checkpoints(before).save(Learner(10), Progress(step=10, best_step=5))
    subprocess.run([sys.executable, "-c", _KILLED, str(before), str(cases)], check=True)
    found = []
    for case in sorted(cases.iterdir(), key=lambda path: int(path.name)):
        checkpoints, learner = Checkpoints(case), Learner(0)
        progress = checkpoints.resume(learner)
        assert learner.values() == {float(progress.step)}
        best = Learner(0)
        checkpoints.restore_best(best, progress)
        assert best.values() == {float(progress.best_step)}
        found.append((progress.step, progress.best_step))
        checkpoints.save(Learner(20), Progress(step=20))
        assert names(case) == ["step-00000000", "step-00000020"]
    assert len(found) > 15
    assert found == sorted(found)
    assert set(found) == {(10, 5), (15, 15)}


def test_state_is_plain_json(tmp_path):
    saved(tmp_path, 5)
    facts = json.loads((tmp_path / "step-00000005/state.json").read_text())
    assert facts["progress"] == {
        "step": 5, "history": [{"loss": 0.2}], "best_step": 5, "best_value": 0.5, "waited": 0,
    }  # fmt: skip
    assert set(facts["files"]) == {"model.npz", "optimizer.npz", "metrics.npz"}
