"""Procedures by the name used in experiment files: each makes one learner by several trainings."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anchorage.procedures.class_folds import ClassFolds
from anchorage.procedures.procedure import Procedure, Task
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
    """Make the procedure of an experiment.

    Args:
        section: `name`, a key of `PROCEDURES` or `"package.module:ClassName"` of a `Procedure`, and `params`.
        **facts: what a procedure may ask for: `seed`.

    Raises:
        UsageError: on an unknown name or parameter, or a missing one.
        ValueError: if the constructor refuses a value.
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
    run_key: str = "",
    log_folder: str | Path | None = None,
    verbose: int | str = "auto",
) -> TrainRun:
    """Train a learner, by one training or by a procedure: what the Trainer, the Tuner and the plain command call.

    Args:
        store: as in `anchorage.training.run.train_run`, like the other arguments.
        validation_store: see there.
        encoder: see there.
        loss: see there.
        training: what `train_run` takes and, if wanted, `procedure`: a `name` of `PROCEDURES` and its `params`, which
            makes the learner by several trainings.
        seed: see there.
        checkpoint_folder: see there.
        run_key: see there.
        log_folder: see there.
        verbose: see there.

    Raises:
        AnchorageError: what the parts raise on wrong settings, and while training.
    """
    given: dict[str, Any] = {"encoder": encoder, "loss": loss, "training": training, "seed": seed}
    options: dict[str, Any] = {"run_key": run_key, "verbose": verbose}
    options["checkpoint_folder"] = checkpoint_folder and Path(checkpoint_folder)
    options["log_folder"] = log_folder and Path(log_folder)
    if not training.get("procedure"):
        return train_run(store, validation_store, **given, **options)
    settings, recipe = choose_recipe(store, given, verbose)
    # Each of the trainings has classes of its own: batches that were left to the recipe are chosen for these.
    reopened = [key for key in ("sampler", "steps_per_epoch") if training.get(key, 0) is None]
    task = Task(store, validation_store, settings, reopened, **options)
    run = create_procedure(training["procedure"], seed=seed).run(task)
    return run._replace(result=dataclasses.replace(run.result, settings=settings.to_dict(), recipe=recipe))


__all__ = ["PROCEDURES", "Procedure", "Task", "create_procedure", "run_training"]
