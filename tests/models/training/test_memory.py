"""Training on a store four times as large as the memory a process may take for it."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from memory import MEASURABLE, cap_data, process_memory

from anchorage.data.store import Record, RecordSpec, RecordStore, write_store

SIZE, CLASSES, PER_CLASS, BATCH = 128, 64, 172, 32
BYTES = CLASSES * PER_CLASS * SIZE * SIZE * 3  # 516 MiB

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's"),
]


def test_a_quarter_of_the_data_fits_in_memory_and_all_of_it_is_trained_on(tmp_path):
    random = np.random.default_rng(0)

    def records():
        for number in range(CLASSES):
            for item in range(PER_CLASS):
                image = random.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
                yield Record(f"{number}/{item}", f"class-{number:02}", "both", image)

    write_store(tmp_path, records(), RecordSpec(SIZE))
    environment = {**os.environ, **MEASURABLE, "KERAS_BACKEND": "tensorflow"}
    command = [sys.executable, __file__, str(tmp_path)]
    try:
        child = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    finally:
        (tmp_path / "shard-00000.u8").unlink()  # pytest would keep it
    assert child.returncode == 0, child.stderr[-3000:]
    result = json.loads(child.stdout.splitlines()[-1])
    assert result["rows"] == CLASSES * PER_CLASS
    assert np.isfinite(result["losses"]).all()
    assert result["all at once"] == "MemoryError"


def trunk(pixels, weights=None):
    """A network that takes little time: the data is what is measured."""
    import keras

    return keras.layers.Conv2D(8, 16, strides=16, activation="relu")(keras.layers.Rescaling(1 / 255)(pixels))


def train_in_a_quarter(folder: str) -> None:
    """Train with a limit of a quarter of the data above what the process holds after two steps of the same training.

    Prints how many different rows were read, the losses, and what comes of reading all rows at once.
    """
    import tensorflow as tf

    from anchorage.training.run import train_run

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    store, seen = RecordStore(folder), set()
    read = store.read

    def noting(rows):
        seen.update(np.asarray(rows).tolist())
        return read(rows)

    store.read = noting
    arguments = {
        "encoder": {"name": "__main__:trunk", "embedding_size": 8},
        "loss": {"name": "contrastive"},
        "seed": 1,
        "verbose": 0,
    }
    training = {
        "sampler": {"name": "shuffled_batches", "params": {"batch_size": BATCH}},
        "optimizer": {"name": "adamw", "learning_rate": 1e-3},
        "augmentation": {"flip": True},
        "epochs": 1,
    }
    train_run(store, None, training={**training, "steps_per_epoch": 2}, **arguments)
    cap_data(process_memory("VmData") + BYTES // 4)
    seen.clear()
    history = train_run(store, None, training=training, **arguments).result.history
    rows = len(seen)
    try:
        outcome = f"{len(read(np.arange(len(store))))} rows"
    except MemoryError:
        outcome = "MemoryError"
    print(json.dumps({"rows": rows, "losses": [row["loss"] for row in history[1:]], "all at once": outcome}))


if __name__ == "__main__":
    train_in_a_quarter(sys.argv[1])
