"""Base class of the procedures, which combine several training runs into one learner."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.storage import join
from anchorage.training.run import TrainRun, train_run
from anchorage.training.settings import RunSettings

if TYPE_CHECKING:
    from anchorage.learner import MetricLearner
    from anchorage.training.fit import FitResult


@dataclasses.dataclass(frozen=True)
class Task:
    """Arguments of a procedure; see `anchorage.training.run.train_run`.

    Args:
        store: training images.
        validation_store: validation images, or None.
        settings: of each training, with what the recipe chose for the whole store.
        reopened: keys of the training section that the recipe chooses anew for the classes of each training.
        checkpoint_folder: folder of the checkpoints, or None.
        run_key: identifies the run in its checkpoints.
        log_folder: folder of the logs, or None.
        verbose: verbosity.
    """

    store: Any
    validation_store: Any
    settings: RunSettings
    reopened: Sequence[str]
    checkpoint_folder: str | None
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
        """Run one training of the task.

        Each training has its own checkpoints. If an interrupted procedure is run again, finished trainings return their
        results immediately and the unfinished one resumes. A procedure therefore needs no state of its own, as long as
        its decisions are deterministic.

        Args:
            name: unique among the trainings of the task; names its folders.
            store: other training images.
            validation_store: other validation images.
            seed: another seed.
            prepare: called with the learner before the first step.
            keep_start: as in `train_run`.
            **changes: replacements for fields of `settings.training`.
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
            checkpoint_folder=self.checkpoint_folder and join(self.checkpoint_folder, name),
            run_key=f"{self.run_key}/{name}",
            log_folder=self.log_folder and self.log_folder / name,
            verbose=self.verbose,
        )

    def write_table(self, name: str, columns: Mapping[str, Any]) -> None:
        """Write a table to `<name>.parquet` in the log folder, if there is one."""
        if self.log_folder is None:
            return
        import pyarrow as pa
        import pyarrow.parquet as parquet

        path = self.log_folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.table({key: pa.array(np.asarray(values)) for key, values in columns.items()}), path)


class Procedure:
    """Base class of the procedures.

    The constructor takes the parameters of the experiment file, with a seed for all randomness.
    """

    def run(self, task: Task) -> TrainRun:
        """Run the task; repeating an interrupted call resumes it."""
        raise NotImplementedError


def continue_from(learner: "MetricLearner", *, with_loss: bool = True) -> Callable[["MetricLearner"], None]:
    """Make a `prepare` function that copies the encoder weights of a learner and, optionally, its loss weights."""

    def prepare(fresh: "MetricLearner") -> None:
        fresh.encoder.set_weights(learner.encoder.get_weights())
        if with_loss:
            fresh.loss_layer.set_weights(learner.loss_layer.get_weights())

    return prepare


def join_results(results: list["FitResult"], best: int) -> "FitResult":
    """Join the results of consecutive trainings, the learner being that of number `best`.

    Each row of the joined history has the number of its training as `stage`, from 0; epochs are numbered consecutively,
    including epoch 0 of each stage, the network it starts with.
    """
    offsets = [sum(len(result.history) for result in results[:number]) for number in range(len(results))]
    rows = [{**row, "stage": number} for number, result in enumerate(results) for row in result.history]
    return dataclasses.replace(
        results[best],
        history=[{**row, "epoch": epoch} for epoch, row in enumerate(rows)],
        best_epoch=offsets[best] + results[best].best_epoch,
        resumed_step=results[-1].resumed_step,
        start_weights=results[0].start_weights,
    )


def best_result(results: list["FitResult"]) -> int:
    """Index of the training with the best validation value, the first on ties; the last without validation values."""
    values = [result.best_value for result in results]
    known = [value for value in values if value is not None]
    return values.index(max(known)) if len(known) == len(values) else len(values) - 1
