"""The training loop: Keras' own `fit`, watched by callbacks that validate, keep, resume and stop."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import keras

from models.data.batches import Sampler, Store, is_refreshed, training_batches
from models.errors import DataError, UsageError
from models.learner import MetricLearner
from models.methods import Surroundings
from models.training.checkpoints import Checkpoints
from models.training.distribution import replicas
from models.training.frozen_norms import FrozenNorms
from models.training.refresh import refresh_sampler
from models.training.validation import METRICS
from models.training.watch import Termination, Watch


@dataclass(frozen=True)
class FitResult:
    """What a training came to.

    Args:
        history: one row for each epoch: `loss`, `val_recall@1`, `val_map@r`, `learning_rate`.
        best_epoch: epoch, from 1, whose weights the learner has now; the last one without validation.
        best_value: of the monitored metric in that epoch; None without validation.
        stopped_early: whether patience ran out before the last epoch.
        resumed_step: step from which this call went on; 0 for a training from the start.
    """

    history: list[dict[str, float]]
    best_epoch: int
    best_value: float | None
    stopped_early: bool
    resumed_step: int


def fit_learner(
    learner: MetricLearner,
    store: Store,
    validation_store: Store | None,
    sampler: Sampler,
    *,
    epochs: int,
    steps_per_epoch: int = 0,
    augmentation: Sequence[keras.layers.Layer] = (),
    seed: int = 0,
    checkpoint_folder: str | Path | None = None,
    run_key: str = "",
    log_folder: str | Path | None = None,
    patience: int = 0,
    monitor: str = "map@r",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> FitResult:
    """Train a compiled learner, and leave it with the weights of its best epoch.

    After each epoch it is judged by retrieval on `validation_store`, whose classes must not be among those of
    `store`. With a `checkpoint_folder` a call that was cut off (killed, pre-empted, no more disk) goes on where the
    newest checkpoint stands, and ends as if nothing had happened.

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
        monitor: metric that says which epoch is best: `"map@r"` or `"recall@1"`.
        callbacks: further Keras callbacks.
        verbose: as in Keras: 0 silent, 1 a bar, 2 a line an epoch; `"auto"`: a bar on a terminal, else lines.

    Raises:
        DataError: E_LOSS_NOT_FINITE as soon as the loss is nan or infinite, E_SPLIT_EMPTY, E_NO_RELEVANT.
        ResourceError: E_INTERRUPTED after SIGTERM, with a checkpoint written; E_DISK_FULL.
        UsageError: E_NAME_UNKNOWN for `monitor`; E_SAMPLER if a batch cannot be dealt evenly to the replicas;
            E_CHECKPOINT_OTHER if the folder holds another training.
    """
    if monitor not in METRICS:
        raise UsageError("E_NAME_UNKNOWN", f"Unknown metric to monitor: {monitor!r}. Known: {list(METRICS)}")
    if not len(store):
        raise DataError("E_SPLIT_EMPTY", "Expected images to train on. Received: none.")
    if sampler.batch_size % replicas():
        raise UsageError(
            "E_SAMPLER",
            f"A batch of {sampler.batch_size} rows cannot be dealt evenly to {replicas()} replicas. "
            "Choose a batch size that is a multiple of their number.",
        )
    steps = steps_per_epoch or sampler.steps_per_round
    _build(learner, store.image_size)
    surroundings = Surroundings(learner, store, sampler, steps, epochs, seed)
    with TemporaryDirectory() as scratch, Termination() as termination, FrozenNorms() as norms:
        checkpoints = Checkpoints(checkpoint_folder or scratch, run_key, sampler)
        progress = checkpoints.resume(learner)
        resumed_step = progress.step
        if resumed_step:
            print(f"going on after step {resumed_step} of {epochs * steps}, from {checkpoints.folder}", flush=True)
        else:
            for method in learner.methods:
                method.start(surroundings)
            refresh_sampler(surroundings, step=0)
        watch = Watch(
            checkpoints=checkpoints,
            progress=progress,
            termination=termination,
            surroundings=surroundings,
            validation_store=validation_store,
            monitor=monitor,
            patience=patience,
            keep=checkpoint_folder is not None,
        )
        callbacks = [*callbacks, norms, watch, *_tensorboard(log_folder)]
        verbose = verbose if verbose != "auto" else 1 if sys.stdout.isatty() else 2
        while progress.epoch < epochs and not watch.exhausted:
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
        checkpoints.restore_best(learner, progress)
        for method in learner.methods:
            method.finish(surroundings)
    best_epoch = progress.epoch if progress.best_step is None else progress.best_step // steps
    stopped_early = progress.epoch < epochs
    return FitResult(progress.history, best_epoch, progress.best_value, stopped_early, resumed_step)


def _build(learner: MetricLearner, image_size: int) -> None:
    if not learner.built:
        learner.build((None, image_size, image_size, 3))
    if not learner.optimizer.built:
        learner.optimizer.build(learner.trainable_variables)


def _tensorboard(log_folder: str | Path | None) -> list[keras.callbacks.Callback]:
    return [keras.callbacks.TensorBoard(str(log_folder), write_graph=False)] if log_folder else []
