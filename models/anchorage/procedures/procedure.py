"""Procedures: several trainings that make one learner."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.training.run import TrainRun, train_run
from anchorage.training.settings import RunSettings

if TYPE_CHECKING:
    from anchorage.learner import MetricLearner
    from anchorage.training.fit import FitResult


@dataclasses.dataclass(frozen=True)
class Task:
    """What a procedure has to do.

    Args:
        store: as in `anchorage.training.run.train_run`, like all that is not named here.
        validation_store: see there.
        settings: of each training, with what the recipe chose for the whole store.
        reopened: keys of the training section that the recipe chooses anew for the classes of each training.
        checkpoint_folder: see there.
        run_key: see there.
        log_folder: see there.
        verbose: see there.
    """

    store: Any
    validation_store: Any
    settings: RunSettings
    reopened: Sequence[str]
    checkpoint_folder: Path | None
    run_key: str
    log_folder: Path | None
    verbose: int | str

    def train(
        self,
        name: str,
        *,
        store: Any = None,
        validation_store: Any = None,
        seed: int | None = None,
        prepare: Callable[["MetricLearner"], None] | None = None,
        keep_start: bool = True,
        **changes: Any,
    ) -> TrainRun:
        """One training of the task.

        It has checkpoints of its own: when an interrupted procedure is run again, a training that was complete gives
        its result at once, and the one that was not goes on. So a procedure needs no memory of its own as long as it
        decides the same way each time.

        Args:
            name: tells it from the other trainings of this task; names its folders.
            store: other training images.
            validation_store: other validation images.
            seed: another seed.
            prepare: gets the learner before its first step.
            keep_start: as in `train_run`.
            **changes: other values for fields of `settings.training`.
        """
        training = dataclasses.replace(self.settings.training, procedure=None, **changes)
        seed = self.settings.seed if seed is None else seed
        settings = dataclasses.replace(self.settings, training=training, seed=seed).to_dict()
        settings["training"] |= dict.fromkeys(self.reopened)
        if self.verbose:
            print(f"training {name}", flush=True)
        return train_run(
            self.store if store is None else store,
            self.validation_store if validation_store is None else validation_store,
            **settings,
            prepare=prepare,
            keep_start=keep_start,
            checkpoint_folder=self.checkpoint_folder and self.checkpoint_folder / name,
            run_key=f"{self.run_key}/{name}",
            log_folder=self.log_folder and self.log_folder / name,
            verbose=self.verbose,
        )

    def write_table(self, name: str, columns: Mapping[str, Any]) -> None:
        """Write a table beside the logs, `<name>.parquet`; without a log folder, do nothing."""
        if self.log_folder is None:
            return
        import pyarrow as pa
        import pyarrow.parquet as parquet

        path = self.log_folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table({key: pa.array(np.asarray(values)) for key, values in columns.items()}), path)


class Procedure:
    """Base of the procedures. The constructor takes what the experiment file says; all draws follow from a seed."""

    def run(self, task: Task) -> TrainRun:
        """Do the task; an interrupted call goes on when it is repeated."""
        raise NotImplementedError


def continue_from(learner: "MetricLearner", *, with_loss: bool = True) -> Callable[["MetricLearner"], None]:
    """Makes a `prepare` that starts with the encoder of another learner and, if asked, with its loss weights."""

    def prepare(fresh: "MetricLearner") -> None:
        fresh.encoder.set_weights(learner.encoder.get_weights())
        if with_loss:
            fresh.loss_layer.set_weights(learner.loss_layer.get_weights())

    return prepare


def join_results(results: list["FitResult"], best: int) -> "FitResult":
    """The result of trainings that followed one another, of which number `best` made the learner.

    Each row of the history says by `stage` which training it is of, from 0; epochs are counted through, so that the
    network that a stage began with has a number of its own.
    """
    before = [sum(len(result.history) for result in results[:number]) for number in range(len(results))]
    rows = [{**row, "stage": number} for number, result in enumerate(results) for row in result.history]
    return dataclasses.replace(
        results[best],
        history=[{**row, "epoch": epoch} for epoch, row in enumerate(rows)],
        best_epoch=before[best] + results[best].best_epoch,
        resumed_step=results[-1].resumed_step,
        start_weights=results[0].start_weights,
    )


def best_result(results: list["FitResult"]) -> int:
    """Number of the training with the highest value on the validation classes, the first of equals; else the last."""
    values = [result.best_value for result in results]
    known = [value for value in values if value is not None]
    return values.index(max(known)) if len(known) == len(values) else len(values) - 1
