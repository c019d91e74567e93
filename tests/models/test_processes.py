"""Training in two processes by Keras on JAX: one loss over the joined batch, a kill in the middle, the export."""

import os
import socket
import subprocess
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from anchorage.errors import UsageError
from anchorage.processes import join_processes
from anchorage.training.run import load_learner

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-jax" / "bin" / "python"
PROGRAM, EXAMPLE = Path(__file__).with_name("processes_program.py"), ROOT / "pipeline/examples/several_processes.py"
ENVIRONMENT = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT / "models")}

in_jax = pytest.mark.skipif(
    not PYTHON.exists(), reason="no Keras on JAX here: `make .venv-jax/installed`, which `make test` does"
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def start(*arguments):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([PYTHON, *map(str, arguments)], env=ENVIRONMENT, **pipes)


def finish(*processes):
    for process in processes:
        text, _ = process.communicate(timeout=300)
        assert process.returncode == 0, text


@in_jax
@pytest.mark.thorough
def test_two_processes_train_as_one_with_the_joined_batch(tmp_path):
    port = free_port()
    finish(
        start(PROGRAM, port, 1, 0, tmp_path / "one.npz"),
        *[start(PROGRAM, port, 2, rank, tmp_path / "two.npz") for rank in range(2)],
    )
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert sorted(one.files) == sorted(two.files)
        assert {name.split()[0] for name in one.files} >= {"contrastive", "proxy_anchor", "cross_batch_memory"}
        for name in one.files:
            np.testing.assert_allclose(two[name], one[name], atol=1e-5, rtol=1e-5, err_msg=name)


def example(path, port, rank):
    return start(EXAMPLE, path, "--processes", 2, "--rank", rank, "--coordinator", port, "--epochs", 60)


@in_jax
@pytest.mark.thorough
def test_killed_processes_go_on_from_their_last_epoch_and_tensorflow_exports_the_result(tmp_path):
    whole = start(EXAMPLE, tmp_path / "whole.keras", "--epochs", 60)
    path, port = tmp_path / "learner.keras", free_port()
    killed = [example(path, port, rank) for rank in range(2)]
    while not path.exists() and all(process.poll() is None for process in killed):
        time.sleep(0.01)
    for process in killed:
        process.kill()
    assert "epoch 60" not in "".join(process.communicate()[0] for process in killed)
    port = free_port()
    resumed = [example(path, port, rank) for rank in range(2)]
    first = resumed[0].communicate(timeout=300)[0]
    finish(whole, resumed[1])
    assert "epoch 1:" not in first  # these were done before
    assert "epoch 60:" in first

    import tensorflow as tf

    learner, expected = (load_learner(file) for file in (path, tmp_path / "whole.keras"))
    for ours, theirs in zip(learner.variables, expected.variables, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-4)
    learner.encoder.export(tmp_path / "exported", verbose=False)
    rows = np.random.default_rng(3).normal(size=(5, 64)).astype("float32")
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(exported.serve(rows), learner.encoder(rows), atol=1e-6)


def test_other_backends_are_refused():
    with pytest.raises(UsageError, match=r"E_BACKEND.*KERAS_BACKEND=jax.*tensorflow"):
        join_processes("localhost:1", 2, 0)


def test_a_rank_must_be_below_the_number_of_processes(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UsageError, match=r"E_PROCESSES: Expected a rank from 0 to 1. Received: 2"):
        join_processes("localhost:1", 2, 2)
