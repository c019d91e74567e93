"""A single training: from the settings of an experiment file to a trained learner."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import keras

from anchorage.data.batches import Store, create_augmentation
from anchorage.errors import UsageError
from anchorage.learner import MetricLearner
from anchorage.replicas import strategy_scope
from anchorage.training.building import DataFacts, build_training
from anchorage.training.fit import FitResult, fit_learner
from anchorage.training.recipes import Choice, Facts, choose_settings, format_choices
from anchorage.training.settings import RunSettings

UNTRAINED = "was left out: the encoder is used as it is"  # why a training of no epochs ended


class TrainRun(NamedTuple):
    """The learner with its best weights, and the result of the training."""

    learner: MetricLearner
    result: FitResult


def train_run(
    store,
    validation_store: Store | None,
    *,
    encoder: Mapping[str, Any],
    loss: Mapping[str, Any] | None,
    training: Mapping[str, Any],
    seed: int,
    prepare: Callable[[MetricLearner], None] | None = None,
    keep_start: bool = True,
    checkpoint_folder: str | Path | None = None,
    run_key: str = "",
    log_folder: str | Path | None = None,
    observers: Sequence[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> TrainRun:
    """Build and train a learner; sets the global seeds of Keras, NumPy and Python.

    A setting that is None is chosen by the recipe for this encoder and these classes, see `anchorage.training.recipes`.
    For what takes several trainings see `anchorage.procedures.run_training`.

    Args:
        store: `RecordStore` of the training classes.
        validation_store: `RecordStore` of other classes, or None.
        encoder: what `EncoderSettings` holds, as plain values; `name` at the least.
        loss: `name` and `params`.
        training: what `TrainingSettings` holds, as plain values; `epochs`, `sampler` (`name`, `params`) and `optimizer`
            at the least. With 0 epochs nothing is trained. The groups of weights that the optimizer knows are
            `proxies`, `trunk`, `head` and parts of a weight's path. A trunk that is frozen, by `frozen_steps` or a
            factor of 0, keeps the statistics of its batch norm, too.
        seed: of weights, batches and augmentation; the same seed gives the same learner on the same machine, bit for
            bit on CPUs.
        prepare: gets the built learner before its first step, to give it other weights.
        keep_start: as in `fit_learner`, like the arguments below.
        checkpoint_folder: see there.
        run_key: see there.
        log_folder: folder for the files of `training.loggers`; None for no logs.
        observers: further callbacks that get all metrics of the history.
        verbose: see there.

    Raises:
        AnchorageError: what the parts raise on wrong settings, and `fit_learner` while training.
    """
    given = {"encoder": encoder, "loss": loss, "training": training, "seed": seed}
    settings, recipe = choose_recipe(store, given, verbose)
    chosen = settings.training
    if chosen.procedure is not None:
        raise UsageError(
            "E_PARAMETER_UNKNOWN",
            "`train_run` makes a single training and takes no `procedure`: use `anchorage.procedures.run_training`. "
            f"Received: {chosen.procedure.name!r}",
        )
    if settings.encoder.cache and not store.spec.dimension:
        raise UsageError(
            "E_CACHE", "`train_run` trains the head on cached features only: use `anchorage.procedures.run_training`"
        )
    augmentation = [] if settings.encoder.cache else create_augmentation(chosen.augmentation)  # the copies have it
    with precision_policy(chosen.precision), strategy_scope(chosen.strategy):
        _keep_order()
        facts = DataFacts.of(store)
        learner, sampler, steps_per_epoch, loggers = build_training(settings, facts, log_folder=log_folder)
        if prepare is not None:
            prepare(learner)
        if sampler is None:
            untrained = FitResult([], 0, None, UNTRAINED, 0, learner.encoder.get_weights(), settings.to_dict())
            return TrainRun(learner, untrained)
        result = fit_learner(
            learner,
            store,
            validation_store,
            sampler,
            augmentation=augmentation,
            seed=seed,
            checkpoint_folder=checkpoint_folder,
            loggers=[*loggers, *observers],
            run_key=run_key,
            verbose=verbose,
            epochs=chosen.epochs,
            steps_per_epoch=steps_per_epoch,
            patience=chosen.patience,
            keep_start=keep_start,
        )
    return TrainRun(learner, dataclasses.replace(result, settings=settings.to_dict(), recipe=recipe))


def choose_recipe(store: Any, given: Mapping[str, Any], verbose: int | str) -> tuple[RunSettings, Sequence[Choice]]:
    """All settings of a training, and the reason of each that the recipe chose, printed unless `verbose` is 0.

    Args:
        store: the training classes.
        given: `encoder`, `loss`, `training` and `seed` as `train_run` takes them.
        verbose: see there.
    """
    counts = DataFacts.of(store).class_counts
    values, recipe = choose_settings(given, counts)
    settings = RunSettings.from_dict(values)
    if not settings.training.epochs:
        return settings, ()  # no choice mattered
    if verbose and (chosen := format_choices(recipe, Facts.of(given["encoder"], counts))):
        print(chosen, flush=True)
    return settings, recipe


def load_learner(path: str | Path) -> MetricLearner:
    """A learner that was saved as `.keras`: encoder, loss with its proxies and state, and optimizer.

    Keras finds a class only once its module is loaded; this module loads all of the project's own.
    A loss of the user's must be imported by the caller.
    """
    return keras.models.load_model(path)


def _keep_order() -> None:
    """Make TensorFlow deterministic in this process: the order of its operations does not depend on its threads.

    Its dependency optimizer can drop the edge that has a weight read before it is updated, so that once in thousands
    of steps a part of the loss sees the weights of the next one. Sums are taken in order on CPUs only: on GPUs some
    operations have no such form and others get much slower.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.optimizer.set_experimental_options({"dependency_optimization": False})
        if not tf.config.list_physical_devices("GPU"):
            tf.config.experimental.enable_op_determinism()


@contextmanager
def precision_policy(policy: str) -> Iterator[None]:
    """Set Keras' global dtype policy within the `with` block."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
