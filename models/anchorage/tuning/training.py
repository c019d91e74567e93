"""The training of a trial, on the validation classes or on folds of the training classes."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any

import keras

from anchorage.data.subset import ClassSubset, assign_folds
from anchorage.errors import UsageError
from anchorage.procedures import run_training
from anchorage.training.features import cached_features
from anchorage.training.fit import FitResult
from anchorage.training.run import choose_recipe, train_run
from anchorage.tuning.settings import OBJECTIVE, TuningSettings
from anchorage.tuning.trial_settings import batches, trial_settings
from anchorage.tuning.tuner import SAMPLES, Report, Train


def trial_training(
    store: Any,
    validation_store: Any,
    settings: Mapping[str, Any],
    tuning: TuningSettings,
    *,
    cache_folder: str | Path | None = None,
) -> Train:
    """Make the function that trains a trial of `anchorage.tuning.search.run_search`.

    The objective is the best MAP@R of an epoch on the validation classes, reported after each epoch; with
    `tuning.folds`, its mean over folds of the training classes, reported after each fold.

    Args:
        store: training images.
        validation_store: images of other classes.
        settings: `encoder`, `loss`, `training` and `seed` as for `anchorage.procedures.run_training`, with ranges.
        tuning: how to search; of it `epochs` and `folds`.
        cache_folder: as in `run_training`.

    Raises:
        UsageError: E_FOLDS if there are folds and a procedure, or too few classes.
    """
    folds = assign_folds(store.class_names, tuning.folds, settings["seed"]) if tuning.folds else []
    if folds and settings["training"].get("procedure"):
        raise UsageError("E_FOLDS", "`tuning.folds` trains once per fold: leave out `training.procedure`.")

    def train(values: dict[str, Any], report: Report) -> Mapping[str, float]:
        keras.backend.clear_session()  # otherwise the graphs of all trials stay in memory
        trial = trial_settings(settings, {"training.epochs": tuning.epochs, **values}, store)
        samples = math.prod(batches(trial, store))
        if folds:
            return _train_folds(store, folds, trial, samples, report, cache_folder)
        observers = [] if trial["training"].get("procedure") else [_Observer(report, samples)]
        result = run_training(store, validation_store, **trial, cache_folder=cache_folder, observers=observers).result
        return {**_best(result), SAMPLES: samples * (len(result.history) - 1)}

    return train


def _train_folds(
    store: Any,
    folds: list[list[str]],
    trial: Mapping[str, Any],
    samples: int,
    report: Report,
    cache_folder: str | Path | None,
) -> dict[str, float]:
    """Train without each fold in turn, and take the mean of all metrics over the folds."""
    found: list[dict[str, float]] = []
    seen = 0
    settings, _ = choose_recipe(store, trial, verbose=0)
    folder = cache_folder and Path(cache_folder)
    cached = cached_features(store, None, settings, folder or None, 0) if trial["encoder"].get("cache") else None
    with cached or nullcontext() as features:
        images = features.store if features else store
        for fold in folds:
            rest = ClassSubset(images, set(images.class_names) - set(fold))
            result = train_run(rest, ClassSubset(images, fold), **trial).result
            found.append(_best(result))
            seen += samples * (len(result.history) - 1)
            report(seen, fmean(metrics[OBJECTIVE] for metrics in found))
    names = set.intersection(*map(set, found))
    return {name: fmean(metrics[name] for metrics in found) for name in sorted(names)}


def _best(result: FitResult) -> dict[str, float]:
    """The metrics of the best trained epoch; row 0 is before training."""
    row = max(result.history[1:], key=lambda row: row[f"val_{OBJECTIVE}"])
    return {name.removeprefix("val_"): value for name, value in row.items() if name not in ("epoch", "stage")}


class _Observer(keras.callbacks.Callback):
    """Reports the objective after each epoch."""

    def __init__(self, report: Report, samples_per_epoch: int):
        super().__init__()
        self._report, self._samples = report, samples_per_epoch

    def on_epoch_end(self, epoch, logs=None):
        self._report((epoch + 1) * self._samples, (logs or {})[f"val_{OBJECTIVE}"])
