"""Progress of a training: its steps on the display, and a line after each epoch."""

import time
from collections.abc import Mapping

import keras

from anchorage.progress import advance

TRAINING = "training"  # title of the task


class ProgressReport(keras.callbacks.Callback):
    """Reports each step to `anchorage.progress`, and prints the metrics of each epoch in one line.

    Args:
        epochs: largest number of epochs.
        steps: steps per epoch.
        done: steps that are done already.
    """

    def __init__(self, epochs: int, steps: int, done: int = 0):
        super().__init__()
        self._epochs, self._steps, self._done = epochs, steps, done

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch, self._started = epoch + 1, time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        steps = min(self.model.steps_per_execution, self._steps - self._done % self._steps)
        self._done += steps
        advance(TRAINING, steps, f"epoch {self._epoch}/{self._epochs}, loss {logs['loss']:.4f}")

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, **logs}
        print(f"{format_epoch(row, self._epochs)}  ({time.monotonic() - self._started:.0f} s)", flush=True)


def format_epoch(row: Mapping[str, float], epochs: int) -> str:
    """The metrics of an epoch in one line; epoch 0 is the network before the first step."""
    metrics = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
    return f"epoch {int(row['epoch'])}/{epochs}  {metrics}"
