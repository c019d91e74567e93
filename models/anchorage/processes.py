"""Training on several machines: Keras on JAX in several processes, with the loss computed on the global batch.

Each process runs the same program and feeds its own part of every batch. JAX holds one copy of the weights on all
devices, so losses, proxies, memories and optimizers see the joined batch without a change. TensorFlow has no such
training in Keras 3, see `anchorage.replicas`.
"""

import secrets
from pathlib import Path
from typing import Any

import keras
import numpy as np

from anchorage.errors import UsageError

_SILENCE = 30  # seconds after which a process counts as dead


def join_processes(coordinator: str, processes: int, rank: int) -> None:
    """Connect this process with the others, and train on the devices of all of them from now on.

    Call it before the first weight is created. Each process must then make the same calls in the same order, with the
    same seeds. If one of them dies, the others end with an error within a minute.

    Args:
        coordinator: `"HOST:PORT"` that the first process listens on; a port that only these machines can reach.
        processes: their number; with 1, nothing is connected.
        rank: number of this process, from 0.

    Raises:
        UsageError: E_BACKEND on another Keras backend than JAX; E_PROCESSES for a wrong rank.
    """
    if keras.backend.backend() != "jax":
        raise UsageError(
            "E_BACKEND",
            f"Expected Keras on JAX (KERAS_BACKEND=jax) for several processes. Received: {keras.backend.backend()}",
        )
    if not 0 <= rank < processes:
        raise UsageError("E_PROCESSES", f"Expected a rank from 0 to {processes - 1}. Received: {rank}")
    if processes == 1:
        return
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # for CPUs; GPUs have their own
    jax.distributed.initialize(coordinator, processes, rank, heartbeat_timeout_seconds=_SILENCE)
    devices = keras.distribution.list_devices()
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False))


def local_part(rows: np.ndarray) -> np.ndarray:
    """The rows of a batch that this process feeds.

    Args:
        rows: `(N, ...)` rows of the joined batch, such as a sampler's; the same in every process.

    Returns:
        `(N / processes, ...)` rows, in order of the ranks.

    Raises:
        UsageError: E_SAMPLER if the batch cannot be divided evenly.
    """
    import jax

    count, rank = jax.process_count(), jax.process_index()
    if len(rows) % count:
        raise UsageError(
            "E_SAMPLER",
            f"Expected a batch size that is a multiple of the {count} processes. Received: {len(rows)} rows",
        )
    size = len(rows) // count
    return rows[rank * size : (rank + 1) * size]


class SharedCheckpoint(keras.callbacks.Callback):
    """Saves the learner with its optimizer after each epoch, so that a restart of all processes resumes from it.

    Of what the processes write, the file of the first one is kept, by a rename; `load` reads it in every process. It is
    an ordinary `.keras` file, which Keras on TensorFlow loads and exports, too.

    Args:
        path: a `.keras` file on a disk that all processes share.
        steps_per_epoch: optimizer steps per epoch.
    """

    def __init__(self, path: str | Path, steps_per_epoch: int):
        super().__init__()
        self.path, self._steps = Path(path), steps_per_epoch

    def load(self) -> tuple[Any, int] | None:
        """The saved learner and the number of its epochs; None if there is none yet."""
        if not self.path.is_file():
            return None
        learner = keras.models.load_model(self.path)
        return learner, int(learner.optimizer.iterations) // self._steps

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        import jax

        # Every process saves, since Keras makes variables while it does, which all processes must do together.
        temporary = self.path.with_name(f".{secrets.token_hex(4)}-{self.path.name}")
        try:
            self.model.save(temporary)
            if jax.process_index() == 0:
                temporary.replace(self.path)
        finally:
            temporary.unlink(missing_ok=True)
