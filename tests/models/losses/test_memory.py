"""What a step of each loss allocates at 2,048 rows, in a process that cannot take much more than it may."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from models.losses import LOSSES

ROOT = Path(__file__).parents[3]
ROWS, DIM = 2048, 128
CLASSES = 1000  # of the losses with proxies, several a class by default in some
CLASSES_IN_BATCH = 100
MOST = 400  # MiB beside the batch and the weights; one (2048, 2048) float32 tensor has 16
HARD_CAP = 1024  # MiB more than the process has before the first loss, for all graphs together; N^3 numbers have 32,768
PARAMS = {"cross_batch_memory": {"memory_size": 2 * ROWS}}  # the default holds less than the batch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the cap is Linux's"),
]


@pytest.fixture(scope="module")
def peaks():
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    child = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    found = dict(json.loads(line) for line in child.stdout.splitlines() if line.startswith("["))
    if child.returncode:
        found["died"] = child.stderr[-2000:]
    return found


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_stays_below_the_cap(name, peaks):
    assert name in peaks, peaks.get("died", "no answer")
    assert peaks[name] < MOST


def test_a_tensor_too_much_is_seen(peaks):
    """The measure itself: one (64 * 2048, 2048) tensor has 1,024 MiB, which is refused."""
    assert peaks["(rows, rows)"] == pytest.approx(16, abs=1)
    assert peaks["refused"] is True


def measure_all() -> None:
    """Print `[name, MiB]` for every loss; run in a process of its own."""
    import keras
    import numpy as np
    import tensorflow as tf

    from models.losses import create_loss

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    embeddings = tf.constant(np.random.default_rng(0).normal(size=(ROWS, DIM)), tf.float32)
    labels = tf.constant(np.arange(ROWS) % CLASSES_IN_BATCH, tf.int32)
    held = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (int(held.split()[1]) * 1024 + HARD_CAP * 2**20,) * 2)

    def peak(step) -> float:
        step()  # traces
        tf.config.experimental.reset_memory_stats("CPU:0")
        before = tf.config.experimental.get_memory_info("CPU:0")["current"]
        step()
        return (tf.config.experimental.get_memory_info("CPU:0")["peak"] - before) / 2**20

    def step_of(loss):
        @tf.function
        def step(rows, labels):
            with tf.GradientTape() as tape:
                tape.watch(rows)
                value = loss(rows, labels)
            return value, tape.gradient(value, [rows, *loss.trainable_variables])

        return lambda: step(embeddings, labels)

    print(json.dumps(["(rows, rows)", peak(lambda: tf.ones((ROWS, ROWS)))]))
    for name in sorted(LOSSES):
        loss = create_loss(name, PARAMS.get(name), num_classes=CLASSES)
        loss(keras.KerasTensor(embeddings.shape), keras.KerasTensor(labels.shape, dtype="int32"))
        print(json.dumps([name, peak(step_of(loss))]), flush=True)
    try:
        tf.ones((64 * ROWS, ROWS))
    except tf.errors.ResourceExhaustedError:
        print(json.dumps(["refused", True]))


if __name__ == "__main__":
    measure_all()
