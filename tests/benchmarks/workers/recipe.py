"""What benchmarks of training share: settings that the recipe chooses, and a clock of the epochs."""

import time

import keras

from anchorage.training.recipes import choose_settings
from anchorage.training.settings import RunSettings

_OPEN = {"epochs": None, "steps_per_epoch": None, "sampler": None, "augmentation": None, "methods": None}
_OPTIMIZER = dict.fromkeys(("name", "learning_rate", "schedule", "warmup_steps", "final_share"))


class Clock(keras.callbacks.Callback):
    """Wall and CPU seconds of each epoch; validation and checkpoints come after it."""

    def __init__(self):
        super().__init__()
        self.wall, self.cpu = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self._started = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        self.wall.append(time.perf_counter() - self._started[0])
        self.cpu.append(time.process_time() - self._started[1])


def recipe_settings(encoder, loss, counts, rate_factors=None):
    """The recipe's settings for an encoder, a loss or None, and the sizes of the classes."""
    rates = {"rate_factors": {"proxies": None, **(rate_factors or {})}, "frozen_steps": {}}
    optimizer = {**_OPTIMIZER, **rates, "params": {"weight_decay": None}}
    given = {"encoder": encoder, "loss": loss, "training": {**_OPEN, "optimizer": optimizer}, "seed": 0}
    settings, _ = choose_settings(given, counts)
    return RunSettings.from_dict(settings)
