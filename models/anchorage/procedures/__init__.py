"""Procedures, which combine several training runs into one learner; `PROCEDURES` maps names to classes."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anchorage.procedures.class_folds import ClassFolds
from anchorage.procedures.procedure import Procedure, Settings, Task
from anchorage.procedures.pseudo_clusters import PseudoClusters
from anchorage.procedures.self_training import SelfTraining
from anchorage.procedures.weak_labels import WeakLabels
from anchorage.registry import create
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
    encoder: Settings,
    loss: Settings | None,
    training: Settings,
    seed: int,
    checkpoint_folder: str | Path | None = None,
    run_key: str = "",
    log_folder: str | Path | None = None,
    verbose: int | str = "auto",
) -> TrainRun:
    """Train a learner from plain settings; the entry point of the Trainer, the tuner and `anchorage train`.

    All arguments but `training` are those of `anchorage.training.run.train_run`.

    Args:
        store: training images.
        validation_store: validation images, or None.
        encoder: settings of the encoder.
        loss: settings of the loss, or None for the recipe's choice.
        training: settings of `train_run` and, optionally, `procedure` with a `name` in `PROCEDURES` and its `params`.
        seed: random seed.
        checkpoint_folder: folder of the checkpoints, or None.
        run_key: identifies the run in its checkpoints.
        log_folder: folder of the logs, or None.
        verbose: verbosity.

    Raises:
        AnchorageError: if settings are invalid or training fails.
    """
    arguments: dict[str, Any] = {
        "checkpoint_folder": checkpoint_folder and Path(checkpoint_folder),
        "log_folder": log_folder and Path(log_folder),
        "run_key": run_key,
        "verbose": verbose,
    }
    if not training.get("procedure"):
        plain = {key: value for key, value in training.items() if key != "procedure"}
        return train_run(store, validation_store, encoder=encoder, loss=loss, training=plain, seed=seed, **arguments)
    settings, recipe = choose_recipe(store, {"encoder": encoder, "loss": loss, "training": training}, verbose)
    # The training runs have different classes, so each of them chooses its own batch size.
    chosen = {key: value for key, value in settings["training"].items() if key != "procedure"}
    chosen |= {key: training[key] for key in ("sampler", "steps_per_epoch") if key in training}
    task = Task(store, validation_store, settings["encoder"], settings["loss"], chosen, seed, **arguments)
    run = create_procedure(training["procedure"], seed=seed).run(task)
    return run._replace(result=dataclasses.replace(run.result, settings=settings, recipe=recipe))


__all__ = ["PROCEDURES", "Procedure", "Task", "create_procedure", "run_training"]
