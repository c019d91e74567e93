"""Keras callback that validates, saves checkpoints, and stops on NaN and SIGTERM."""

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
    """Context manager in which SIGTERM sets `requested` instead of ending the process."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "SigtermGuard":
        self._handled = threading.current_thread() is threading.main_thread()  # only it can set a handler
        if self._handled:
            self._previous = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._handled:
            signal.signal(signal.SIGTERM, self._previous)

    def _request(self, number, frame) -> None:
        self.requested = True


class TrainingMonitor(keras.callbacks.Callback):
    """Updates the progress of a training after each step and epoch, and saves it in checkpoints.

    Args:
        checkpoints: checkpoints of the training.
        progress: progress so far, which is updated.
        guard: signals that the process should end.
        context: context of the training, for the methods of the learner.
        validation_store: validation images; None for no validation.
        patience: epochs without improvement after which the training ends; 0 for no limit.
        keep_start: whether epoch 0 can be the best epoch.
        keep: whether the checkpoints are kept after the training.
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
        self.diagnostics = TrainingDiagnostics(context.store, context.sampler, context.seed)
        self._metrics_at_resume: list[np.ndarray] | None = None

    @property
    def stop_reason(self) -> str:
        """Why the training ends before its last epoch; empty while it continues."""
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
        """Remark on a finished training that stopped early or did not improve; else empty."""
        if self.stop_reason or self.progress.best_step != 0:
            return self.stop_reason
        return (
            f"no epoch is better on the validation classes than the network before training ({MONITOR} "
            f"{self.progress.best_value:.1%}), which is kept."
        )

    def judge_start(self, learner: MetricLearner) -> None:
        """Evaluate the network before the first step, as epoch 0."""
        self.set_model(learner)
        logs: dict[str, float] = {"epoch": 0}
        try:
            logs |= self.diagnostics.measure(learner, 0)
        except FloatingPointError as error:
            raise DataError(
                "E_LOSS_NOT_FINITE", f"Before the first step, {error}. Check the pretrained weights or use others."
            ) from None
        logs |= self._validate()
        if self.keep_start and self.validation_store is not None:
            self._update_best(logs[f"val_{MONITOR}"])
        self._record(logs)

    def on_train_begin(self, logs=None):
        if self._inside_epoch():  # Keras resets the running metrics at the start of an epoch
            self._metrics_at_resume = [keras.ops.convert_to_numpy(v) for v in self.model.metrics_variables]

    def on_epoch_begin(self, epoch, logs=None):
        if self._metrics_at_resume is not None:
            for variable, value in zip(self.model.metrics_variables, self._metrics_at_resume, strict=True):
                variable.assign(value)
            self._metrics_at_resume = None

    def on_train_batch_end(self, batch, logs=None):
        steps = self.context.steps_per_epoch
        self.progress.step += min(self.model.steps_per_execution, steps - self.progress.step % steps)
        if not math.isfinite(logs["loss"]):
            self._stop_not_finite(f"the loss became {logs['loss']}")
        if self.guard.requested and self._inside_epoch():  # at the end of an epoch, `on_epoch_end` interrupts
            self._interrupt()

    def on_epoch_end(self, epoch, logs=None):
        if not all(np.isfinite(keras.ops.convert_to_numpy(v)).all() for v in self.model.weights):
            self._stop_not_finite("weights became NaN or infinite")
        logs["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        try:
            logs.update(
                self.diagnostics.after_epoch(
                    self.model, self.progress.step, self.progress.history, after_warm_up=self._warm_up_epochs() + 1
                )
            )
        except FloatingPointError as error:
            self._stop_not_finite(str(error))
        logs.update(self._validate())
        if self.validation_store is not None:
            self._update_best(logs[f"val_{MONITOR}"])
        for method in self.model.methods:
            method.after_epoch(self.context, logs)
        # Batches are prefetched, so those of the refreshed sampler need another call of `fit`.
        refreshed = refresh_sampler(self.context, self.progress.step)
        self._record({"epoch": self.progress.epoch + 1, **logs})
        if self.stop_reason or refreshed:
            self.model.stop_training = True
        if self.guard.requested:
            self._interrupt()

    def _validate(self) -> dict[str, float]:
        if self.validation_store is None:
            return {}
        return {f"val_{name}": value for name, value in validate(self.model, self.validation_store).items()}

    def _record(self, logs: Mapping[str, float]) -> None:
        row = {name: float(value) for name, value in logs.items()}
        self.progress.history.append({**row, "epoch": int(row["epoch"])})
        self.checkpoints.save(self.model, self.progress)

    def _warm_up_epochs(self) -> int:
        """Number of epochs in which the learning rate still rises or some weights are frozen."""
        return math.ceil(warm_up_steps(self.context.learner.optimizer) / self.context.steps_per_epoch)

    def _inside_epoch(self) -> bool:
        return self.progress.step % self.context.steps_per_epoch > 0

    def _update_best(self, value: float) -> None:
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
            last_checkpoint = self.checkpoints.newest()
            facts = {
                "epoch": self.progress.epoch + 1,
                "step": step,
                "what": what,
                "last_checkpoint": str(last_checkpoint) if last_checkpoint else None,
                "record_ids": ids,
                "labels": self.context.store.labels[rows].tolist(),
            }
            report = self.checkpoints.folder / "not-finite.json"
            report.write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
            message += f"The last checkpoint is {last_checkpoint}; the records of the batch are in {report}. "
        else:
            message += f"The batch has {len(ids)} records, the first is {ids[0]!r}. "
        raise DataError("E_LOSS_NOT_FINITE", f"{message}Check the records or lower the learning rate.")

    def _interrupt(self) -> None:
        message = f"Interrupted after step {self.progress.step}. "
        if self.keep:
            path = self.checkpoints.save(self.model, self.progress)
            message += f"The training is saved in {path}: run the same command again to resume it."
        else:
            message += "The training is lost, since it has no checkpoint folder."
        raise ResourceError("E_INTERRUPTED", message)
