"""Measure a training step before there is any packed data."""

import time
from collections.abc import Sequence

import numpy as np

from anchorage.data.store import RecordSpec
from anchorage.training.recipes import choose_settings
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.identity import training_settings
from anchorage_pipeline.source import record_spec

_WARM_UP, _TIMED = 2, 8  # steps
_SECONDS = 10.0  # after which no further step is timed


def measure_step(experiment: Experiment, counts: Sequence[int]) -> float:
    """Time training steps on random images or vectors.

    Args:
        experiment: the experiment without ranges.
        counts: number of images of each training class.

    Returns:
        The median of the seconds per step, with augmentation and without validation.
    """
    from anchorage.data.batches import create_augmentation, training_batches
    from anchorage.training.building import DataFacts, build_training, create_sampler
    from anchorage.training.settings import RunSettings

    settings = RunSettings.from_dict(choose_settings(training_settings(experiment), counts)[0])
    images = _RandomImages(counts, record_spec(experiment))
    learner = build_training(settings, DataFacts(images.labels, counts, images.spec)).learner
    sampler = create_sampler(settings.training.sampler, images.labels, settings.seed)
    augmentation = create_augmentation(settings.training.augmentation)
    ends: list[float] = []
    for batch, labels in training_batches(images, sampler, 0, _WARM_UP + _TIMED, augmentation, settings.seed):
        learner.train_on_batch(batch, labels)
        ends.append(time.perf_counter())
        if len(ends) > _WARM_UP and ends[-1] - ends[_WARM_UP - 1] > _SECONDS:
            break
    return float(np.median(np.diff(ends[_WARM_UP - 1 :])))


class _RandomImages:
    """Random pixels, or vectors, in place of a `RecordStore`."""

    def __init__(self, counts: Sequence[int], spec: RecordSpec):
        self.spec = spec
        self.labels = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        self.ids = self.labels.astype(str)
        self.roles = np.full(len(self.labels), "both")
        self._random = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        return self._random.integers(0, 256, (len(rows), *self.spec.shape)).astype(self.spec.dtype)
