"""Looks at every step and epoch of a training: stops on nan and on SIGTERM, validates, keeps checkpoints."""

import json
import math
import signal
import threading
from collections.abc import Mapping
from types import TracebackType

import keras
import numpy as np

from anchorage.data.batches import Store
from anchorage.errors import DataError, ResourceError
from anchorage.learner import MetricLearner
from anchorage.methods import TrainingContext
from anchorage.training.checkpoints import Checkpoints, Progress
from anchorage.training.diagnostics import TrainingDiagnostics
from anchorage.training.optimizers import warm_up_steps
from anchorage.training.refresh import refresh_sampler
from anchorage.training.stopping import reason_to_stop
from anchorage.training.validation import MONITOR, validate


class SigtermGuard:
    """While entered, SIGTERM sets `asked` instead of ending the process at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "SigtermGuard":
        self._handled = threading.current_thread() is threading.main_thread()  # no other thread may set a handler
        if self._handled:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._handled:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, number, frame) -> None:
        self.asked = True


class TrainingMonitor(keras.callbacks.Callback):
    """Keeps the progress of one training up to date, in memory and in checkpoints.

    Args:
        checkpoints: where they go.
        progress: what was done before this call.
        guard: whether the process was told to end.
        context: the training, which the methods of the learner get to see.
        validation_store: images to judge an epoch by; None for no judgement.
        patience: epochs without a better value before the training ends; 0 for all of them.
        keep_start: whether epoch 0 may be the best one.
        keep: whether the checkpoints outlive the training.
    """

    def __init__(
        self,
        *,
        checkpoints: Checkpoints,
        progress: Progress,
        guard: SigtermGuard,
        context: TrainingContext,
        validation_store: Store | None,
        patience: int,
        keep_start: bool,
        keep: bool,
    ):
        super().__init__()
        self.checkpoints, self.progress, self.guard = checkpoints, progress, guard
        self.context = context
        self.validation_store, self.patience = validation_store, patience
        self.keep_start, self.keep = keep_start, keep
        self.signs = TrainingDiagnostics(context.store, context.sampler, context.seed)
        self._metrics_at_resume: list[np.ndarray] | None = None

    @property
    def stop_reason(self) -> str:
        """Why the training ends before its last epoch; empty while it goes on."""
        return reason_to_stop(
            self.progress.history,
            monitor=MONITOR,
            epochs=self.context.epochs,
            patience=self.patience,
            waited=self.progress.waited,
            warm_up=self._warm_up_epochs(),
            keep_start=self.keep_start,
        )

    @property
    def outcome(self) -> str:
        """What is odd about a training that has come to its end."""
        if self.stop_reason or self.progress.best_step != 0:
            return self.stop_reason
        return (
            f"no epoch was better on the validation classes than the network before training ({MONITOR} "
            f"{self.progress.best_value:.1%}), which is kept."
        )

    def judge_start(self, learner: MetricLearner) -> None:
        """Judge the network before the first step, as epoch 0."""
        self.set_model(learner)
        logs: dict[str, float] = {"epoch": 0}
        try:
            logs |= self.signs.measure(learner, 0)
        except FloatingPointError as error:
            raise DataError(
                "E_LOSS_NOT_FINITE", f"Before the first step, {error}. Look at the stored weights, or take others."
            ) from None
        logs |= self._validate()
        if self.keep_start and self.validation_store is not None:
            self._compare(logs[f"val_{MONITOR}"])
        self._keep(logs)

    def on_train_begin(self, logs=None):
        if self._inside_epoch():  # Keras clears the running means at the start of an epoch
            self._metrics_at_resume = [keras.ops.convert_to_numpy(v) for v in self.model.metrics_variables]

    def on_epoch_begin(self, epoch, logs=None):
        if self._metrics_at_resume is not None:
            for variable, value in zip(self.model.metrics_variables, self._metrics_at_resume, strict=True):
                variable.assign(value)
            self._metrics_at_resume = None

    def on_train_batch_end(self, batch, logs=None):
        self.progress.step += 1
        if not math.isfinite(logs["loss"]):
            self._stop_not_finite(f"the loss became {logs['loss']}")
        if self.guard.asked and self._inside_epoch():  # else the epoch gets its end first
            self._interrupt()

    def on_epoch_end(self, epoch, logs=None):
        if not all(np.isfinite(keras.ops.convert_to_numpy(v)).all() for v in self.model.weights):
            self._stop_not_finite("weights became nan or infinite")
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        try:
            logs.update(
                self.signs.after_epoch(
                    self.model, self.progress.step, self.progress.history, settled=self._warm_up_epochs() + 1
                )
            )
        except FloatingPointError as error:
            self._stop_not_finite(str(error))
        logs.update(self._validate())
        if self.validation_store is not None:
            self._compare(logs[f"val_{MONITOR}"])
        for method in self.model.methods:
            method.after_epoch(self.context, logs)
        # Batches are made ahead of their steps; those that the sampler chooses from now on belong to another `fit`.
        refreshed = refresh_sampler(self.context, self.progress.step)
        self._keep({"epoch": self.progress.epoch + 1, **logs})
        if self.stop_reason or refreshed:
            self.model.stop_training = True
        if self.guard.asked:
            self._interrupt()

    def _validate(self) -> dict[str, float]:
        if self.validation_store is None:
            return {}
        return {f"val_{name}": value for name, value in validate(self.model, self.validation_store).items()}

    def _keep(self, logs: Mapping[str, float]) -> None:
        row = {name: float(value) for name, value in logs.items()}
        self.progress.history.append({**row, "epoch": int(row["epoch"])})
        self.checkpoints.save(self.model, self.progress)

    def _warm_up_epochs(self) -> int:
        """Epochs in which the rate still rises or some weights are held still."""
        return math.ceil(warm_up_steps(self.context.learner.optimizer) / self.context.steps_per_epoch)

    def _inside_epoch(self) -> bool:
        return self.progress.step % self.context.steps_per_epoch > 0

    def _compare(self, value: float) -> None:
        if self.progress.best_value is None or value > self.progress.best_value:
            self.progress.best_value, self.progress.best_step, self.progress.waited = value, self.progress.step, 0
        else:
            self.progress.waited += 1

    def _stop_not_finite(self, what: str) -> None:
        step = self.progress.step
        rows = self.context.sampler.batch(step - 1)
        ids = [str(i) for i in self.context.store.ids[rows]]
        message = f"In epoch {self.progress.epoch + 1}, step {step}, {what}. "
        if self.keep:
            last_good = self.checkpoints.newest()
            facts = {
                "epoch": self.progress.epoch + 1,
                "step": step,
                "what": what,
                "last_checkpoint": str(last_good) if last_good else None,
                "record_ids": ids,
                "labels": self.context.store.labels[rows].tolist(),
            }
            report = self.checkpoints.folder / "not-finite.json"
            report.write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
            message += f"The last good checkpoint is {last_good}; the records of the batch are in {report}. "
        else:
            message += f"The batch held {len(ids)} records, the first {ids[0]!r}. "
        raise DataError("E_LOSS_NOT_FINITE", f"{message}Look at the records, or lower the learning rate.")

    def _interrupt(self) -> None:
        message = f"Told to stop after step {self.progress.step}. "
        if self.keep:
            path = self.checkpoints.save(self.model, self.progress)
            message += f"The training is kept in {path}: run the same command again to go on."
        else:
            message += "Without a checkpoint folder the training is lost."
        raise ResourceError("E_INTERRUPTED", message)
