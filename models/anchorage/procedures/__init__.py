"""Procedures, which combine several training runs into one learner; `PROCEDURES` maps names to classes."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from anchorage.procedures.class_folds import ClassFolds
from anchorage.procedures.procedure import Procedure, Task
from anchorage.procedures.pseudo_clusters import PseudoClusters
from anchorage.procedures.self_training import SelfTraining
from anchorage.procedures.weak_labels import WeakLabels
from anchorage.registry import create
from anchorage.training.features import cached_features
from anchorage.training.run import TrainRun, choose_recipe, train_run

PROCEDURES: dict[str, type[Procedure]] = {
    "class_folds": ClassFolds,
    "pseudo_clusters": PseudoClusters,
    "self_training": SelfTraining,
    "weak_labels": WeakLabels,
}


def create_procedure(section: Mapping[str, Any], **facts: Any) -> Procedure:
    """Create the procedure of an experiment.

    Args:
        section: `name`, a key of `PROCEDURES` or `"package.module:ClassName"` of a `Procedure`, and optional `params`.
        **facts: values that a constructor may take: `seed`.

    Raises:
        UsageError: if a name or parameter is unknown or missing.
        ValueError: if the constructor rejects a value.
    """
    return create(PROCEDURES, section["name"], section.get("params"), facts, base=Procedure)


def run_training(
    store,
    validation_store,
    *,
    encoder: Mapping[str, Any],
    loss: Mapping[str, Any] | None,
    training: Mapping[str, Any],
    seed: int,
    checkpoint_folder: str | Path | None = None,
    cache_folder: str | Path | None = None,
    run_key: str = "",
    log_folder: str | Path | None = None,
    observers: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> TrainRun:
    """Train a learner by one training or a procedure; the entry point of Trainer, Tuner and `anchorage train`.

    All arguments but `training` are those of `anchorage.training.run.train_run`.

    Args:
        store: training images.
        validation_store: validation images, or None.
        encoder: settings of the encoder.
        loss: settings of the loss, or None for the recipe's choice.
        training: settings of `train_run` and, optionally, `procedure` with a `name` in `PROCEDURES` and its `params`.
        seed: random seed.
        checkpoint_folder: folder of the checkpoints, or None.
        cache_folder: folder of the features that `encoder` has cached, for this and later trainings; None keeps them
            for this training only.
        run_key: identifies the run in its checkpoints.
        log_folder: folder of the logs, or None.
        observers: further callbacks that get all metrics of the history of a single training.
        verbose: verbosity.

    Raises:
        AnchorageError: if settings are invalid or training fails.
    """
    given: dict[str, Any] = {"encoder": encoder, "loss": loss, "training": training, "seed": seed}
    options: dict[str, Any] = {"run_key": run_key, "verbose": verbose}
    options["checkpoint_folder"] = checkpoint_folder and str(checkpoint_folder)
    options["log_folder"] = log_folder and Path(log_folder)
    if not training.get("procedure"):
        options["observers"] = observers
    if not encoder.get("cache"):
        return _train(store, validation_store, given, options)
    settings, _ = choose_recipe(store, given, verbose=0)
    folder = cache_folder and Path(cache_folder)
    with cached_features(store, validation_store, settings, folder or None, verbose) as features:
        return features.join(_train(features.store, features.validation_store, given, options))


def _train(store, validation_store, given: Mapping[str, Any], options: Mapping[str, Any]) -> TrainRun:
    """A single training, or those of a procedure."""
    training = given["training"]
    if not training.get("procedure"):
        return train_run(store, validation_store, **given, **options)
    settings, recipe = choose_recipe(store, given, options["verbose"])
    # The training runs have different classes, so the recipe chooses the batches separately for each of them.
    reopened = [key for key in ("sampler", "steps_per_epoch") if training.get(key, 0) is None]
    task = Task(store, validation_store, settings, reopened, **options)
    run = create_procedure(training["procedure"], seed=given["seed"]).run(task)
    return run._replace(result=dataclasses.replace(run.result, settings=settings.to_dict(), recipe=recipe))


__all__ = ["PROCEDURES", "Procedure", "Task", "create_procedure", "run_training"]
