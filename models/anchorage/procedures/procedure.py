"""What a procedure is: several trainings that make one learner."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.training.run import TrainRun, train_run

if TYPE_CHECKING:
    from anchorage.learner import MetricLearner
    from anchorage.training.fit import FitResult

Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """What a procedure is asked for: the arguments of `anchorage.training.run.train_run`, which see."""

    store: Any
    validation_store: Any
    encoder: Settings
    loss: Settings
    training: Settings
    seed: int
    checkpoint_folder: Path | None
    run_key: str
    log_folder: Path | None
    verbose: int | str

    def train(self, name: str, *, prepare: Callable[["MetricLearner"], None] | None = None, **changes: Any) -> TrainRun:
        """One training of the task.

        It has checkpoints of its own: the second time, after an interruption, a training that was done gives its
        result at once, and the one that was not goes on. So a procedure that is cut off is simply begun again, and
        has nothing to remember as long as it decides the same way each time.

        Args:
            name: tells it from the other trainings of this task; names its folders.
            prepare: gets the learner before its first step.
            **changes: other values for fields of the task; those of `training` replace single keys.
        """
        training = {**self.training, **changes.pop("training", {})}
        task = dataclasses.replace(self, training=training, **changes)
        if self.verbose:
            print(f"training {name}", flush=True)
        return train_run(
            task.store,
            task.validation_store,
            encoder=task.encoder,
            loss=task.loss,
            training=task.training,
            seed=task.seed,
            prepare=prepare,
            checkpoint_folder=self.checkpoint_folder and self.checkpoint_folder / name,
            run_key=f"{self.run_key}/{name}",
            log_folder=self.log_folder and self.log_folder / name,
            verbose=self.verbose,
        )

    def write_table(self, name: str, columns: Mapping[str, Any]) -> None:
        """Leave a table beside the logs, `<name>.parquet`; nothing without a log folder."""
        if self.log_folder is None:
            return
        import pyarrow as pa
        import pyarrow.parquet as parquet

        path = self.log_folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table({key: pa.array(np.asarray(values)) for key, values in columns.items()}), path)


class Procedure:
    """Base of the procedures. The constructor takes what the experiment file says; anything drawn hangs on a seed."""

    def run(self, task: Task) -> TrainRun:
        """Carry the task out; a call that was cut off goes on when it is repeated."""
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
