"""One training from plain settings: what the pipeline's Trainer, the tuner and the plain command all call."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np

from anchorage.data.batches import Store, create_augmentation
from anchorage.data.sampling import SAMPLERS
from anchorage.encoders import create_encoder
from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.methods import create_methods, need_raw
from anchorage.registry import create
from anchorage.replicas import strategy_scope
from anchorage.training.fit import FitResult, fit_learner
from anchorage.training.optimizers import LossScaleOptimizer, create_optimizer
from anchorage.training.recipes import Choice, Facts, choose_settings, format_choices
from anchorage.training.schedules import WarmupDecay
from anchorage.training.settings import OptimizerSettings, TrainingSettings

Settings = Mapping[str, Any]


class TrainRun(NamedTuple):
    """The learner with its best weights, and how it got there."""

    learner: MetricLearner
    result: FitResult


def train_run(
    store,
    validation_store: Store | None,
    *,
    encoder: Settings,
    loss: Settings | None,
    training: Settings,
    seed: int,
    prepare: Callable[[MetricLearner], None] | None = None,
    checkpoint_folder: str | Path | None = None,
    run_key: str = "",
    log_folder: str | Path | None = None,
    verbose: int | str = "auto",
) -> TrainRun:
    """Build and train a learner; sets the global seeds of Keras, NumPy and Python.

    A setting that is None is chosen by the recipe for this encoder and these classes, see `anchorage.training.recipes`.
    For what takes several trainings see `anchorage.procedures.run_training`.

    Args:
        store: `RecordStore` of the training classes.
        validation_store: `RecordStore` of other classes, or None.
        encoder: `name`, `embedding_size` and what else `create_encoder` takes; `params` for the trunk's own.
        loss: `name` and `params`.
        training: what `TrainingSettings` holds, as plain values; `epochs`, `sampler` (`name`, `params`) and `optimizer`
            at the least. The groups of weights that the optimizer knows are `proxies`, `trunk`, `head` and parts of a
            weight's path. A trunk that is held still, by `frozen_steps` or a factor of 0, keeps the statistics of its
            batch norm, too.
        seed: of weights, batches and augmentation; the same seed gives the same learner on the same machine, bit for
            bit on CPUs.
        prepare: gets the built learner before its first step, to give it other weights.
        checkpoint_folder: as in `fit_learner`, like the arguments below.
        run_key: see there.
        log_folder: see there.
        verbose: see there.

    Raises:
        AnchorageError: what the parts raise on wrong settings, and `fit_learner` while training.
    """
    settings, recipe = choose_recipe(store, {"encoder": encoder, "loss": loss, "training": training}, verbose)
    chosen = TrainingSettings.from_dict(settings["training"])
    augmentation = create_augmentation(chosen.augmentation)
    sampler = create_sampler(chosen.sampler, store.labels, seed)
    steps_per_epoch = chosen.steps_per_epoch or sampler.steps_per_round
    with _precision(chosen.precision), strategy_scope(chosen.strategy):
        keras.utils.set_random_seed(seed)
        _keep_order()
        learner = build_learner(
            encoder=settings["encoder"],
            loss=settings["loss"],
            optimizer=chosen.optimizer,
            methods=chosen.methods,
            image_size=store.spec.image_size,
            num_classes=len(store.class_names),
            epochs=chosen.epochs,
            steps_per_epoch=steps_per_epoch,
            seed=seed,
            facts={"class_counts": _class_counts(store), **getattr(sampler, "facts", {})},
        )
        if prepare is not None:
            prepare(learner)
        result = fit_learner(
            learner,
            store,
            validation_store,
            sampler,
            augmentation=augmentation,
            seed=seed,
            checkpoint_folder=checkpoint_folder and Path(checkpoint_folder),
            log_folder=log_folder and Path(log_folder),
            run_key=run_key,
            verbose=verbose,
            epochs=chosen.epochs,
            steps_per_epoch=steps_per_epoch,
            patience=chosen.patience,
            keep_start=chosen.keep_start,
        )
    return TrainRun(learner, dataclasses.replace(result, settings=settings, recipe=recipe))


def choose_recipe(store, given: Settings, verbose: int | str) -> tuple[dict[str, Any], Sequence[Choice]]:
    """All settings of a training, and the reason of each that the recipe chose, printed unless `verbose` is 0.

    Args:
        store: the training classes.
        given: `encoder`, `loss` and `training` as `train_run` takes them.
        verbose: see there.
    """
    counts = _class_counts(store)
    settings, recipe = choose_settings(given, counts)
    if verbose and (chosen := format_choices(recipe, Facts.of(given["encoder"], counts))):
        print(chosen, flush=True)
    return settings, recipe


def _class_counts(store) -> list[int]:
    return np.bincount(store.labels, minlength=len(store.class_names)).tolist()


def build_learner(
    *,
    encoder: Settings,
    loss: Settings,
    optimizer: OptimizerSettings | Settings,
    methods: Sequence[Settings] = (),
    image_size: int,
    num_classes: int,
    epochs: int,
    steps_per_epoch: int,
    seed: int,
    facts: Mapping[str, Any] = MappingProxyType({}),
) -> MetricLearner:
    """A compiled learner of settings as `train_run` describes them; those of the optimizer may be plain ones.

    Loss and methods may ask for what the other arguments and `facts` hold by name.
    """
    network = create_network(encoder, image_size, raw=need_raw(methods))
    facts = {**facts, "num_classes": num_classes, "embedding_size": encoder["embedding_size"]}
    loss_layer = create_loss(loss["name"], loss.get("params"), **facts)
    around = create_methods(methods, **facts, epochs=epochs, steps_per_epoch=steps_per_epoch, seed=seed)
    learner = MetricLearner(network, loss_layer, around)
    learner.build((None, image_size, image_size, 3))
    compile_learner(learner, optimizer, epochs * steps_per_epoch)
    return learner


def create_network(encoder: Settings, image_size: int, *, raw: bool = False) -> keras.Model:
    """The network of an encoder section; `raw` gives embeddings before unit length, too."""
    return create_encoder(image_size=image_size, **{**flat_section(encoder), **({"raw": True} if raw else {})})


def create_sampler(sampler: Settings, labels: Any, seed: int) -> Any:
    """The sampler of its section, over images of these classes."""
    return create(SAMPLERS, sampler["name"], sampler.get("params"), {"labels": labels, "seed": seed})


def compile_learner(learner: MetricLearner, optimizer: OptimizerSettings | Settings, steps: int) -> None:
    """Give a built learner the optimizer of its settings, which may be plain ones, for so many steps.

    Raises:
        UsageError: what optimizer and schedule raise on wrong settings; E_NAME_UNKNOWN for a group without weights.
    """
    asked = optimizer if isinstance(optimizer, OptimizerSettings) else OptimizerSettings.from_dict(optimizer)
    rate = WarmupDecay(asked.learning_rate, steps, asked.schedule, asked.warmup_steps, asked.final_share)
    made = make_optimizer(asked, rate, _groups(learner.encoder))
    made.check_groups([weight.path for weight in learner.trainable_variables])
    # What Keras would wrap by itself, but for several replicas.
    learner.compile(LossScaleOptimizer(made) if learner.dtype_policy.name == "mixed_float16" else made)


def make_optimizer(
    settings: OptimizerSettings, rate: Any, groups: Mapping[str, Sequence[str]] | None = None
) -> keras.optimizers.Optimizer:
    """The optimizer of its settings, with a rate or a schedule in place of theirs."""
    return create_optimizer(
        settings.name,
        rate,
        rate_factors=settings.rate_factors,
        frozen_steps=settings.frozen_steps,
        groups=groups,
        **settings.params,
    )


def _groups(encoder: keras.Model) -> dict[str, list[str]]:
    """Paths of the weights before and after the feature map, which go by no common name."""
    trunk = [weight.path for weight in encoder.get_layer("trunk").weights]
    return {"trunk": trunk, "head": [w.path for w in encoder.weights if w.path not in trunk]}


def load_learner(path: str | Path) -> MetricLearner:
    """A learner that was saved as `.keras`: encoder, loss with its proxies and state, and optimizer.

    Keras finds a class only once its module is loaded; this module loads all of the project's own.
    A loss of the user's must be imported by the caller.
    """
    return keras.models.load_model(path)


def flat_section(section: Settings) -> dict[str, Any]:
    """A section with its `params` among its other keys."""
    own = {key: value for key, value in section.items() if key != "params"}
    return {**own, **section.get("params", {})}


def _keep_order() -> None:
    """Keep TensorFlow's threads from settling the order of what they do, from now on in this process.

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
def _precision(policy: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
