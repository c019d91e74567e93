"""Checkpoints in an object store: the next machine finds the old one or the new one, whole."""

import keras
import numpy as np
import pytest

from anchorage.errors import ResourceError, UsageError
from anchorage.storage import folders, join, list_files, write_bytes
from anchorage.training.checkpoints import Progress
from anchorage.training.remote_checkpoints import RemoteCheckpoints


class Learner:
    """As much of a model as a checkpoint reads and writes; every array holds one number."""

    def __init__(self, value):
        self.variables = [keras.Variable(np.full((3,), value, "float32"))]
        self.metrics_variables = [keras.Variable(np.full((), value, "float32"))]
        self.optimizer = self
        self.values = lambda: {float(v) for v in np.ravel(self.variables[0])}


@pytest.fixture
def machine(bucket, tmp_path):
    """Opens the checkpoints of the bucket on one more machine."""
    return lambda key="": RemoteCheckpoints(join(bucket, "run"), tmp_path / f"{len(list(tmp_path.iterdir()))}", key)


def saved(checkpoints, *steps):
    for step in (0, *steps):
        checkpoints.save(Learner(step), Progress(step=step, history=[{"loss": 0.2}], best_step=step, best_value=0.5))


def steps(bucket):
    return sorted({name.partition("/")[0] for name in list_files(join(bucket, "run"))})


def resumed(checkpoints):
    learner = Learner(-1)
    return checkpoints.resume(learner).step, learner.values()


def test_another_machine_goes_on(bucket, machine):
    saved(machine(), 5, 10)
    assert steps(bucket) == ["step-00000000", "step-00000010"]
    second = machine()
    assert str(second) == join(bucket, "run")
    learner = Learner(-1)
    progress = second.resume(learner)
    assert (progress.step, learner.values()) == (10, {10.0})
    second.save(Learner(15), Progress(step=15, best_step=10))
    assert steps(bucket) == ["step-00000000", "step-00000010", "step-00000015"]
    assert resumed(machine()) == (15, {15.0})


@pytest.mark.parametrize("copied", [0, 1, 2, 3])
def test_one_that_was_not_copied_in_full_is_left_aside(machine, monkeypatch, copied):
    first, sent, plain = machine(), [], folders.send_object
    saved(first, 5)

    def send(*arguments):
        if len(sent) == copied:
            raise ResourceError("E_OBJECT_STORE", "the network is gone")
        sent.append(arguments)
        plain(*arguments)

    monkeypatch.setattr(folders, "send_object", send)
    monkeypatch.setattr(folders, "PARALLEL", 1)
    with pytest.raises(ResourceError):
        first.save(Learner(10), Progress(step=10, best_step=10))
    assert len(sent) == copied
    assert resumed(machine()) == (5, {5.0})


def test_a_damaged_one_is_left_aside(bucket, machine, caplog):
    first = machine()
    saved(first, 5)
    first.save(Learner(10), Progress(step=10, best_step=5))
    write_bytes(join(bucket, "run/step-00000010/model.npz"), b"half of another one")
    assert resumed(machine()) == (5, {5.0})
    assert "step-00000010 is damaged" in caplog.text


def test_another_training_is_refused(machine):
    saved(machine("one"))
    with pytest.raises(UsageError, match="E_CHECKPOINT_OTHER"):
        machine("two").resume(Learner(0))
