"""The training loop: Keras' own `fit`, watched by callbacks that validate, keep, resume and stop."""

import sys
from collections.abc import Mapping, Sequence
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
from anchorage.replicas import replicas
from anchorage.training.checkpoints import Checkpoints
from anchorage.training.frozen_norms import FrozenNorms
from anchorage.training.monitor import SigtermGuard, TrainingMonitor
from anchorage.training.recipes import Choice
from anchorage.training.refresh import refresh_sampler
from anchorage.training.settings import TrainingSettings


@dataclass(frozen=True)
class FitResult:
    """What a training came to.

    Args:
        history: one row for each epoch: `epoch`, `loss`, `val_recall@1`, `val_map@r`, `learning_rate`. The first is
            epoch 0, the network before the first step, which has neither a loss nor a rate.
        best_epoch: epoch whose weights the learner has now; the last one without validation.
        best_value: of MAP@R on the validation classes in that epoch; None without validation.
        stop_reason: why the training ended before its last epoch; empty if it did not.
        resumed_step: step from which this call went on; 0 for a training from the start.
        start_weights: of the encoder before the first step, to judge what the training was good for.
        settings: encoder, loss and training as they were used, with what the recipe chose; empty from `fit_learner`.
        recipe: how each of these values came about.
    """

    history: list[dict[str, float]]
    best_epoch: int
    best_value: float | None
    stop_reason: str
    resumed_step: int
    start_weights: list[np.ndarray] = field(default_factory=list)
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: Sequence[Choice] = ()

    @property
    def stopped_early(self) -> bool:
        """Whether the training ended before its last epoch."""
        return bool(self.stop_reason)


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
    log_folder: str | Path | None = None,
    patience: int = TrainingSettings.patience,
    keep_start: bool = TrainingSettings.keep_start,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> FitResult:
    """Train a compiled learner, and leave it with the weights of its best epoch.

    Before the first step and after each epoch it is judged by MAP@R on `validation_store`, whose classes must not
    be among those of `store`; a training that stays below its start ends early, see `reason_to_stop`. With a
    `checkpoint_folder` a call that was cut off (killed, pre-empted, no more disk) goes on where the newest checkpoint
    stands, and ends as if nothing had happened.

    Args:
        learner: compiled `MetricLearner`.
        store: training images.
        validation_store: images of other classes; None trains without validation and keeps the last weights.
        sampler: which rows of `store` a step gets. One that goes by where the classes lie is told so before the first
            step and after each epoch; each epoch is then a call of Keras' `fit` of its own.
        epochs: most epochs to train.
        steps_per_epoch: 0 for one round of the sampler.
        augmentation: Keras layers from `create_augmentation`.
        seed: of the augmentation.
        checkpoint_folder: where checkpoints stay; None keeps none beyond the call.
        run_key: tells this training from others, such as a hash of its settings.
        log_folder: for TensorBoard; None writes none.
        patience: epochs without a better value after which to stop; 0 never stops early.
        keep_start: whether the network before the first step may be the best one; not where it was judged as the
            result of another training.
        callbacks: further Keras callbacks.
        verbose: as in Keras: 0 silent, 1 a bar, 2 a line an epoch; `"auto"`: a bar on a terminal, else lines.

    Raises:
        DataError: E_LOSS_NOT_FINITE as soon as the loss is nan or infinite, E_SPLIT_EMPTY, E_NO_RELEVANT.
        ResourceError: E_INTERRUPTED after SIGTERM, with a checkpoint written; E_DISK_FULL.
        UsageError: E_SAMPLER if a batch cannot be dealt evenly to the replicas;
            E_CHECKPOINT_OTHER if the folder holds another training.
    """
    if not len(store):
        raise DataError("E_SPLIT_EMPTY", "Expected images to train on. Received: none.")
    if sampler.batch_size % replicas():
        raise UsageError(
            "E_SAMPLER",
            f"A batch of {sampler.batch_size} rows cannot be dealt evenly to {replicas()} replicas. "
            "Choose a batch size that is a multiple of their number.",
        )
    steps = steps_per_epoch or sampler.steps_per_round
    _build(learner, store.spec.shape)
    context = TrainingContext(learner, store, sampler, steps, epochs, seed)
    with TemporaryDirectory() as scratch, SigtermGuard() as guard, FrozenNorms() as norms:
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
        verbose = verbose if verbose != "auto" else 1 if sys.stdout.isatty() else 2
        boards = [EpochBoard(str(log_folder), write_graph=False)] if log_folder else []
        if progress.history:
            print(f"going on after step {resumed_step} of {epochs * steps}, from {checkpoints.folder}", flush=True)
        else:
            for method in learner.methods:
                method.start(context)
            refresh_sampler(context, step=0)
            monitor.judge_start(learner)
            _print_start(progress.history[0], learner, boards, verbose)
        callbacks = [*callbacks, norms, monitor, *boards]
        while progress.epoch < epochs and not monitor.stop_reason:
            rest = steps - progress.step % steps  # less than a whole epoch after an interruption within one
            last = progress.epoch + 1 if rest < steps else epochs
            todo = rest if is_refreshed(sampler) else rest + (last - progress.epoch - 1) * steps
            learner.fit(
                training_batches(store, sampler, progress.step, todo, augmentation, seed),
                initial_epoch=progress.epoch,
                epochs=last,
                steps_per_epoch=rest,
                shuffle=False,  # the sampler did
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


class EpochBoard(keras.callbacks.TensorBoard):
    """TensorBoard whose epochs count as those of the history: the first one trained is 1."""

    def log_start(self, learner: MetricLearner, row: Mapping[str, float]) -> None:
        """Log epoch 0."""
        self.set_model(learner)
        self._log_epoch_metrics(0, dict(row))

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch + 1, logs)


def _print_start(
    row: Mapping[str, float], learner: MetricLearner, boards: Sequence[EpochBoard], verbose: int | str
) -> None:
    shown = " - ".join(f"{name}: {value:.4f}" for name, value in row.items() if name != "epoch")
    if verbose:
        print(f"Epoch 0, before the first step - {shown}", flush=True)
    for board in boards:
        board.log_start(learner, row)
