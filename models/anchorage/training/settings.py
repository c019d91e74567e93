"""Settings of a training: the sections of an experiment file that shape a learner, with their defaults.

These settings are complete. Before recipe and tuner have chosen them, values can be None or ranges; such settings are
plain mappings of the same form, which `RunSettings.from_dict` accepts once they are complete.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from anchorage.errors import UsageError

Pooling = Literal["avg", "max", "gem", "token"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
Strategy = Literal["", "mirrored"]

DEFAULT_EMBEDDING_SIZE = 128  # of an encoder of images
DEFAULT_LOGGER = "tensorboard"
VECTOR_ENCODER = "head"  # the name of the encoder of vectors

_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Part:
    """A building block: its name in an experiment file, and the arguments of its constructor."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Part":
        """A part from `name` and `params`, which may be missing."""
        return _read(cls, "a building block", values)


@dataclass(frozen=True)
class EncoderSettings:
    """The network from images to embeddings, mostly the arguments of `create_encoder`.

    Args:
        name: of the trunk.
        embedding_size: length of an embedding; None for that of the vectors that are the input.
        pooling: how the feature map becomes one row.
        weights: None for random weights, `"imagenet"` for stored ones where the trunk has them.
        frozen_norm: whether batch normalisation keeps its stored statistics and scales.
        head: a part of `HEADS`.
        cache: whether the trunk stays as it is and embeds every image once, so that only the head is trained.
        cached_copies: number of augmented copies of each training image that are embedded, too.
        params: further arguments, such as `normalize` or those of the trunk.
    """

    name: str
    embedding_size: int | None = DEFAULT_EMBEDDING_SIZE
    pooling: Pooling = "gem"
    weights: str | None = None
    frozen_norm: bool = False
    head: Part = Part("plain")
    cache: bool = False
    cached_copies: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "EncoderSettings":
        """Settings from plain values."""
        return _read(cls, "encoder", values, {"head": Part.from_dict})


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer, its schedule, and how groups of weights differ.

    Args:
        name: of the optimizer, see `create_optimizer`.
        learning_rate: the full rate.
        schedule: how the rate falls, a key of `anchorage.training.schedules.SHAPES`.
        warmup_steps: steps until the full rate.
        final_share: share of the full rate at the end, in [0, 1].
        rate_factors: factor on the rate by group of weights; 0 freezes a group for good.
        frozen_steps: steps for which a group is frozen.
        params: further arguments of the optimizer.
    """

    name: str
    learning_rate: float
    schedule: str = "constant"
    warmup_steps: int = 0
    final_share: float = 0.0
    rate_factors: Mapping[str, float] = field(default_factory=dict)
    frozen_steps: Mapping[str, int] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "OptimizerSettings":
        """Settings from plain values; a name that is none of its own is one of `params`."""
        own = {each.name for each in fields(cls)}
        params = {key: value for key, value in values.items() if key not in own}
        given = {key: value for key, value in values.items() if key in own}
        return _read(cls, "optimizer", {**given, "params": {**params, **given.get("params", {})}})


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of the training loop.

    Args:
        epochs: most epochs to train.
        sampler: which rows a step gets, a part of `SAMPLERS`.
        optimizer: with its schedule.
        steps_per_epoch: 0 for one round of the sampler.
        patience: epochs without a better value after which to stop; 0 never stops early.
        precision: Keras' name of the policy.
        strategy: `""` for one replica, `"mirrored"` for one on each GPU of this machine.
        augmentation: what `create_augmentation` takes.
        methods: parts of `METHODS`, the first as the outermost.
        procedure: a part of `PROCEDURES` that makes the learner by several trainings; None for a single one.
        loggers: parts of `LOGGERS`, used where there is a log folder.
    """

    epochs: int
    sampler: Part
    optimizer: OptimizerSettings
    steps_per_epoch: int = 0
    patience: int = 0
    precision: Precision = "float32"
    strategy: Strategy = ""
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    methods: Sequence[Part] = field(default_factory=list)
    procedure: Part | None = None
    loggers: Sequence[Part] = field(default_factory=lambda: [Part(DEFAULT_LOGGER)])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingSettings":
        """Settings from plain values.

        Raises:
            UsageError: E_PARAMETER_UNKNOWN, E_PARAMETER_MISSING.
        """
        readers: dict[str, Callable[[Any], Any]] = {
            "sampler": Part.from_dict,
            "optimizer": OptimizerSettings.from_dict,
            "methods": lambda sections: [Part.from_dict(section) for section in sections],
            "procedure": Part.from_dict,
            "loggers": lambda sections: [Part.from_dict(section) for section in sections],
        }
        return _read(cls, "training", values, readers)


@dataclass(frozen=True)
class RunSettings:
    """All settings of a training: the sections of an experiment file that shape a learner.

    Args:
        encoder: the network.
        loss: a part of `LOSSES`.
        training: how they are fitted.
        seed: of weights, batches and augmentation.
    """

    encoder: EncoderSettings
    loss: Part
    training: TrainingSettings
    seed: int = 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunSettings":
        """Settings from plain values, such as those of an experiment file after the recipe.

        Raises:
            UsageError: E_PARAMETER_UNKNOWN, E_PARAMETER_MISSING.
        """
        readers = {
            "encoder": EncoderSettings.from_dict,
            "loss": Part.from_dict,
            "training": TrainingSettings.from_dict,
        }
        return _read(cls, "a run", values, readers)

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, for JSON."""
        return asdict(self)


class Sections:
    """Error handling for the sections of the settings; this base class raises every error.

    A subclass can collect errors, so that all of them are reported at once.
    """

    def at(self, path: str) -> AbstractContextManager[None]:
        """Context in which the part of a section is created; `path` is that of the section in the file."""
        return nullcontext()

    def require_all(self) -> None:
        """Called before a step that needs all parts created so far; must raise if one of them failed."""


def _read(
    cls: type[_Read],
    section: str,
    values: Mapping[str, Any],
    readers: Mapping[str, Callable[[Any], Any]] = MappingProxyType({}),
) -> _Read:
    """An object of a class of settings, with each value that has a reader read by it."""
    known: dict[str, Any] = {each.name: each for each in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - set(known)):
        raise UsageError("E_PARAMETER_UNKNOWN", f"{section} takes {sorted(known)}. Received unknown: {unknown}")
    needed = {name for name, each in known.items() if each.default is MISSING and each.default_factory is MISSING}
    if missing := sorted(needed - set(values)):
        raise UsageError("E_PARAMETER_MISSING", f"{section} needs {missing}. Received: {sorted(values)}")
    read = {
        key: readers[key](value) if key in readers and value is not None else value for key, value in values.items()
    }
    return cls(**read)
