"""The training loop: Keras' `fit` with callbacks for validation, checkpoints, resumption and early stopping."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np

from anchorage.data.batches import Sampler, Store, is_refreshed, training_batches
from anchorage.errors import DataError, UsageError
from anchorage.learner import MetricLearner
from anchorage.methods import TrainingContext
from anchorage.progress import is_shown, task
from anchorage.replicas import replicas
from anchorage.storage import is_remote
from anchorage.training.checkpoints import Checkpoints
from anchorage.training.frozen_norms import FrozenNorms
from anchorage.training.loggers import Logger
from anchorage.training.monitor import SigtermGuard, TrainingMonitor
from anchorage.training.recipes import Choice
from anchorage.training.refresh import refresh_sampler
from anchorage.training.remote_checkpoints import RemoteCheckpoints
from anchorage.training.reports import TRAINING, ProgressReport, format_epoch
from anchorage.training.settings import TrainingSettings


@dataclass(frozen=True)
class FitResult:
    """Result of a training.

    Args:
        history: one row per epoch: `epoch`, `loss`, `val_recall@1`, `val_map@r`, `learning_rate`. The first is epoch 0,
            the network before the first step, without loss and learning rate.
        best_epoch: epoch of the learner's weights; the last epoch without validation.
        best_value: MAP@R on the validation classes after that epoch; None without validation.
        stop_reason: why the training ended before its last epoch; empty if it did not.
        resumed_step: step of the checkpoint that this call resumed from; 0 for a new training.
        start_weights: weights of the encoder before the first step, for the evaluation of the untrained network.
        settings: all settings as plain values, with the choices of the recipe; empty from `fit_learner`.
        recipe: origin of each of these settings.
    """

    history: list[dict[str, float]]
    best_epoch: int
    best_value: float | None
    stop_reason: str
    resumed_step: int
    start_weights: list[np.ndarray] = field(default_factory=list)
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: Sequence[Choice] = ()


def fit_learner(
    learner: MetricLearner,
    store: Store,
    validation_store: Store | None,
    sampler: Sampler,
    *,
    epochs: int,
    steps_per_epoch: int = TrainingSettings.steps_per_epoch,
    augmentation: Sequence[keras.layers.Layer] = (),
    seed: int = 0,
    checkpoint_folder: str | Path | None = None,
    run_key: str = "",
    patience: int = TrainingSettings.patience,
    keep_start: bool = True,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    loggers: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> FitResult:
    """Train a compiled learner and restore the weights of its best epoch.

    Before the first step and after each epoch the learner is evaluated by MAP@R on `validation_store`, whose classes
    must not be in `store`. A training that stays below its start ends early, see `reason_to_stop`. With a
    `checkpoint_folder`, a call after an interruption (kill, preemption, full disk) resumes from the newest checkpoint
    and gives the same result as an uninterrupted training.

    Args:
        learner: compiled `MetricLearner`.
        store: training images.
        validation_store: images of other classes; None trains without validation and keeps the last weights.
        sampler: chooses the rows of each step. An embedding-aware sampler is updated with current embeddings before the
            first step and after each epoch; each epoch is then a separate call of Keras' `fit`.
        epochs: largest number of epochs.
        steps_per_epoch: steps per epoch; 0 for one round of the sampler.
        augmentation: Keras layers from `create_augmentation`.
        seed: seed of the augmentation.
        checkpoint_folder: folder of the checkpoints, also in an object store; None deletes them at the end of the call.
        run_key: identifies the training, such as a hash of its settings.
        patience: epochs without improvement after which to stop; 0 for no limit.
        keep_start: whether the network before the first step can be the best one; False if it is the result of another
            training.
        callbacks: additional Keras callbacks.
        loggers: callbacks that get all metrics of the history, such as those of `anchorage.training.loggers`.
        verbose: as in Keras: 0 silent, 1 progress bar, 2 one line per epoch; `"auto"` for the display of
            `anchorage.progress` if there is one, else for Keras' bar on a terminal and its lines elsewhere.

    Raises:
        DataError: E_LOSS_NOT_FINITE as soon as the loss is NaN or infinite, E_SPLIT_EMPTY, E_NO_RELEVANT.
        ResourceError: E_INTERRUPTED after SIGTERM, once a checkpoint is written; E_DISK_FULL.
        UsageError: E_SAMPLER if a batch cannot be divided evenly among the replicas; E_CHECKPOINT_OTHER if the folder
            belongs to another training.
    """
    if not len(store):
        raise DataError("E_SPLIT_EMPTY", "Expected images to train on. Received: none.")
    if sampler.batch_size % replicas():
        raise UsageError(
            "E_SAMPLER",
            f"Expected a batch size that is a multiple of the {replicas()} replicas. Received: {sampler.batch_size} "
            "rows. Choose another batch size.",
        )
    steps = steps_per_epoch or sampler.steps_per_round
    _build(learner, store.spec.shape)
    context = TrainingContext(learner, store, sampler, steps, epochs, seed)
    with TemporaryDirectory() as scratch, SigtermGuard() as guard, FrozenNorms() as norms, ExitStack() as stack:
        if checkpoint_folder and is_remote(checkpoint_folder):
            checkpoints: Checkpoints = RemoteCheckpoints(str(checkpoint_folder), scratch, run_key, sampler)
        else:
            checkpoints = Checkpoints(checkpoint_folder or scratch, run_key, sampler)
        progress = checkpoints.resume(learner)
        resumed_step = progress.step
        monitor = TrainingMonitor(
            checkpoints=checkpoints,
            progress=progress,
            guard=guard,
            context=context,
            validation_store=validation_store,
            patience=patience,
            keep_start=keep_start,
            keep=checkpoint_folder is not None,
        )
        reports: list[keras.callbacks.Callback] = []
        if verbose == "auto":
            verbose = 0 if is_shown() else 1 if sys.stdout.isatty() else 2
            if is_shown():
                reports.append(ProgressReport(epochs, steps, resumed_step))
                stack.enter_context(task(TRAINING, epochs * steps, resumed_step))
        if progress.history:
            print(f"resuming after step {resumed_step} of {epochs * steps}, from {checkpoints}", flush=True)
        else:
            for method in learner.methods:
                method.start(context)
            refresh_sampler(context, step=0)
            monitor.judge_start(learner)
            if verbose or reports:
                print(format_epoch(progress.history[0], epochs), flush=True)
        stack.enter_context(_logging(loggers, learner, progress.history))
        callbacks = [*callbacks, norms, monitor, *loggers, *reports]
        while progress.epoch < epochs and not monitor.stop_reason:
            remaining = steps - progress.step % steps  # less than an epoch after an interruption within an epoch
            # Several steps at once stop at the end of the data, not of an epoch: each epoch has data of its own.
            several = learner.steps_per_execution > 1
            last = progress.epoch + 1 if remaining < steps or several else epochs
            count = remaining if is_refreshed(sampler) else remaining + (last - progress.epoch - 1) * steps
            learner.fit(
                training_batches(store, sampler, progress.step, count, augmentation, seed),
                initial_epoch=progress.epoch,
                epochs=last,
                steps_per_epoch=remaining,
                shuffle=False,  # the sampler shuffles
                callbacks=callbacks,
                verbose=verbose,
            )
        if monitor.outcome:
            print(f"note: {monitor.outcome}", flush=True)
        checkpoints.restore_best(learner, progress)
        start_weights = checkpoints.start_weights(learner)
        for method in learner.methods:
            method.finish(context)
    best_epoch = progress.epoch if progress.best_step is None else progress.best_step // steps
    return FitResult(
        progress.history, best_epoch, progress.best_value, monitor.stop_reason, resumed_step, start_weights
    )


def _build(learner: MetricLearner, shape: tuple[int, ...]) -> None:
    if not learner.built:
        learner.build((None, *shape))
    if not learner.optimizer.built:
        learner.optimizer.build(learner.trainable_variables)


@contextmanager
def _logging(
    loggers: Sequence[keras.callbacks.Callback], learner: MetricLearner, history: Sequence[Mapping[str, float]]
) -> Iterator[None]:
    """Start the loggers with the history so far, and close those that were started."""
    started: list[Logger] = []
    failed = True
    try:
        for logger in loggers:
            if isinstance(logger, Logger):
                logger.set_model(learner)
                logger.start(history)
                started.append(logger)
        yield
        failed = False
    finally:
        for logger in started:
            logger.close(failed)
