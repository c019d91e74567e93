"""Creates the learner and all other parts of a training from its settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from anchorage.data.batches import Sampler
from anchorage.data.sampling import SAMPLERS
from anchorage.data.store import RecordSpec
from anchorage.encoders import create_encoder, create_head
from anchorage.encoders.vector_head import create_vector_encoder
from anchorage.errors import UsageError
from anchorage.inference import named_outputs
from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.methods import Method, create_methods, need_raw
from anchorage.registry import create
from anchorage.training.loggers import create_logger
from anchorage.training.optimizers import LossScaleOptimizer, RateFactors, create_optimizer
from anchorage.training.schedules import WarmupDecay
from anchorage.training.settings import (
    DEFAULT_EMBEDDING_SIZE,
    VECTOR_ENCODER,
    EncoderSettings,
    OptimizerSettings,
    Part,
    RunSettings,
    Sections,
)

_MANY = 1_000_000  # steps of an epoch where there is no sampler to say
_EXECUTION = 16  # steps of a head that TensorFlow makes at once: Keras' own work would take as long as a step
_LONG = 8 * _EXECUTION  # steps of an epoch from which on that pays


@dataclass(frozen=True, eq=False)
class DataFacts:
    """Facts about the data that a training depends on.

    Args:
        labels: class of each training image, from 0.
        class_counts: images of each class.
        spec: what one record of the data is.
    """

    labels: np.ndarray
    class_counts: Sequence[int]
    spec: RecordSpec

    @classmethod
    def of(cls, store: Any) -> "DataFacts":
        """The facts of a `RecordStore`."""
        counts = np.bincount(store.labels, minlength=len(store.class_names)).tolist()
        return cls(store.labels, counts, store.spec)

    @property
    def num_classes(self) -> int:
        """Number of training classes."""
        return len(self.class_counts)


class Built(NamedTuple):
    """A learner with all its weights, the sampler of its batches, the steps of an epoch, and the loggers.

    With no epoch to train the learner is not compiled and there is no sampler.
    """

    learner: MetricLearner
    sampler: Sampler | None
    steps_per_epoch: int
    loggers: Sequence[keras.callbacks.Callback] = ()


def build_training(
    settings: RunSettings,
    facts: DataFacts,
    sections: Sections | None = None,
    *,
    log_folder: str | Path | None = None,
) -> Built:
    """Make sampler, encoder, loss, methods and optimizer, the learner of them, and the loggers.

    Sets the global seeds of Keras, NumPy and Python: the same settings and facts give the same weights. Loss and
    methods may ask by name for `num_classes`, `class_counts`, `embedding_size` and what the sampler's `facts` hold;
    methods for `epochs`, `steps_per_epoch` and `seed`, too.

    Args:
        settings: what to make.
        facts: of the training images.
        sections: gets to see errors with the path of their section.
        log_folder: of the loggers, which write nothing before the training; None for no loggers.

    Raises:
        AnchorageError: what the parts raise on wrong settings.
        ValueError: the same, of a value that a constructor refuses.
    """
    sections, training = sections or Sections(), settings.training
    sampler = network = loss = optimizer = None
    raw, methods = False, []
    if training.epochs:  # without, there are no batches to draw, and no classes are needed
        with sections.at("training.sampler"):
            sampler = create_sampler(training.sampler, facts.labels, settings.seed)
    steps_per_epoch = training.steps_per_epoch or (sampler.steps_per_round if sampler else _MANY)
    known = {"class_counts": facts.class_counts, **getattr(sampler, "facts", {})}
    known |= {
        "num_classes": facts.num_classes,
        "embedding_size": settings.encoder.embedding_size or facts.spec.dimension,
    }
    keras.utils.set_random_seed(settings.seed)
    for place, method in enumerate(training.methods):
        with sections.at(f"training.methods.{place}"):
            raw |= need_raw([vars(method)])
    with sections.at("encoder"):
        network = create_network(settings.encoder, facts.spec, raw=raw)
    if network is not None:
        known["embedding_size"] = named_outputs(network.output)["embeddings"].shape[-1]  # with `identity`, the trunk's
    with sections.at("loss"):
        loss = create_loss(settings.loss.name, dict(settings.loss.params), **known)
    known |= {"epochs": training.epochs, "steps_per_epoch": steps_per_epoch, "seed": settings.seed}
    for place, method in enumerate(training.methods):
        with sections.at(f"training.methods.{place}"):
            methods += create_methods([vars(method)], **known)
    loggers = []
    if log_folder is not None:
        for place, logger in enumerate(training.loggers):
            with sections.at(f"training.loggers.{place}"):
                loggers.append(create_logger(logger, log_folder, settings.to_dict()))
    if training.epochs:
        with sections.at("training.optimizer"):
            optimizer = _create_optimizer(training.optimizer, training.epochs * steps_per_epoch, network)
    sections.require_all()
    at_once = _EXECUTION if facts.spec.dimension and steps_per_epoch >= _LONG and not training.strategy else 1
    learner = _join(network, loss, methods, optimizer, at_once, sections)
    return Built(learner, sampler, steps_per_epoch, loggers)


def create_network(settings: EncoderSettings, spec: RecordSpec, *, raw: bool = False) -> keras.Model:
    """The encoder of its settings; `raw` adds the embeddings before they get unit length.

    With cached features it is the head alone, over the features of the trunk, which the data then are.

    Raises:
        UsageError: E_ENCODER_INPUT if the encoder takes images and the data are vectors, or the other way round.
    """
    if settings.cache and spec.dimension:
        return create_head(
            spec.dimension,
            embedding_size=settings.embedding_size or DEFAULT_EMBEDDING_SIZE,
            normalize=settings.params.get("normalize", True),
            head=vars(settings.head),
            raw=raw,
        )
    takes_vectors = settings.name == VECTOR_ENCODER
    if takes_vectors != bool(spec.dimension):
        kind = "vectors" if spec.dimension else "images"
        raise UsageError(
            "E_ENCODER_INPUT", f"Expected an encoder of {kind}, as the data are. Received: {settings.name!r}"
        )
    if takes_vectors:
        return create_vector_encoder(spec.dimension, embedding_size=settings.embedding_size, raw=raw, **settings.params)
    return create_encoder(
        settings.name,
        image_size=spec.image_size,
        embedding_size=settings.embedding_size or DEFAULT_EMBEDDING_SIZE,
        pooling=settings.pooling,
        weights=settings.weights,
        frozen_norm=settings.frozen_norm,
        head=vars(settings.head),
        raw=raw,
        **settings.params,
    )


def create_sampler(sampler: Part, labels: np.ndarray, seed: int) -> Any:
    """The sampler of its settings, over images of these classes."""
    return create(SAMPLERS, sampler.name, sampler.params, {"labels": labels, "seed": seed})


def _create_optimizer(settings: OptimizerSettings, steps: int, network: keras.Model | None) -> Any:
    rate = WarmupDecay(settings.learning_rate, steps, settings.schedule, settings.warmup_steps, settings.final_share)
    return create_optimizer(
        settings.name,
        rate,
        rate_factors=settings.rate_factors,
        frozen_steps=settings.frozen_steps,
        groups=_groups(network) if network else {},
        **settings.params,
    )


def _groups(encoder: keras.Model) -> dict[str, list[str]]:
    """Paths of the weights before and after the feature map, which have no part of a path in common."""
    layers = [layer for layer in encoder.layers if layer.name == "trunk"]  # an encoder of vectors has none
    trunk = [weight.path for layer in layers for weight in layer.weights]
    return {"trunk": trunk, "head": [w.path for w in encoder.weights if w.path not in trunk]}


def _join(
    network: Any, loss: Any, methods: Sequence[Method], optimizer: RateFactors | None, at_once: int, sections: Sections
) -> MetricLearner:
    """A built learner, compiled if there is an optimizer; `at_once` is Keras' `steps_per_execution`.

    An error is that of the part that does not go with those before it.
    """
    shape = (None, *network.input_shape[1:])
    learner = MetricLearner(network, loss, methods)
    with sections.at("loss"):
        learner.build_loss(shape)
    sections.require_all()
    for place, method in enumerate(methods):
        with sections.at(f"training.methods.{place}"):
            learner.prepare(method)
    sections.require_all()
    learner.build(shape)
    if optimizer is None:
        return learner
    with sections.at("training.optimizer"):
        optimizer.check_groups([weight.path for weight in learner.trainable_variables])
        # Keras would wrap the optimizer by itself, but not in a way that works with several replicas.
        half = learner.dtype_policy.name == "mixed_float16"
        learner.compile(LossScaleOptimizer(optimizer) if half else optimizer, steps_per_execution=at_once)
    sections.require_all()
    return learner
