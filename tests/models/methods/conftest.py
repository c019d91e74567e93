"""The published cases, and a training that is cut off in its middle and goes on."""

import json
from pathlib import Path

import numpy as np
import pytest

from models.training.checkpoints import Checkpoints
from models.training.run import train_run

VECTORS = Path(__file__).parents[2] / "data" / "vectors"


@pytest.fixture(scope="session")
def case():
    """Reads one published case: its inputs as arrays, its parameters, what should come out."""

    def read(file, name):
        found = next(case for case in json.loads((VECTORS / f"{file}.json").read_text()) if case["name"] == name)
        inputs = {key: np.array(value) for key, value in found["inputs"].items() if key != "batches"}
        return {**found, "inputs": {**found["inputs"], **inputs}}

    return read


@pytest.fixture
def assert_goes_on(store, settings, monkeypatch, tmp_path):
    """Trains 2 x 50 steps, once straight and once cut off after 50, and compares everything the learners hold."""

    def check(**changes):
        sections = {key: changes.pop(key) for key in ("encoder", "loss") if key in changes}
        options = {**settings(epochs=2, steps_per_epoch=50, **changes), **sections}
        straight = train_run(store, None, **options)
        save = Checkpoints.save

        def save_and_end(self, *args):
            save(self, *args)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "save", save_and_end)
            with pytest.raises(KeyboardInterrupt):
                train_run(store, None, **options, checkpoint_folder=tmp_path)
        halves = train_run(store, None, **options, checkpoint_folder=tmp_path)
        assert halves.result.resumed_step == 50
        for ours, theirs in zip(halves.learner.variables, straight.learner.variables, strict=True):
            np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.path)
        return straight.learner

    return check
