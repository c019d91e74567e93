"""How a learner is trained: what an experiment's `[training]` says once no value is open, with every default."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from anchorage.errors import UsageError

Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
Strategy = Literal["", "mirrored"]
Part = Mapping[str, Any]  # a building block: its `name`, and its arguments as `params`


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer, its schedule, and how groups of weights differ.

    Args:
        name: of the optimizer, see `create_optimizer`.
        learning_rate: the full rate.
        schedule: how the rate falls, a key of `anchorage.training.schedules.SHAPES`.
        warmup_steps: steps until the full rate.
        final_share: share of the full rate at the end, in [0, 1].
        rate_factors: factor on the rate by group of weights; 0 holds a group still for good.
        frozen_steps: steps for which a group does not move.
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
        given: dict[str, Any] = {key: value for key, value in values.items() if key in own}
        return cls(**{**given, "params": {**params, **given.get("params", {})}})


@dataclass(frozen=True)
class TrainingSettings:
    """One training.

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
        keep_start: whether the network before the first step may be the best one; not where it was judged as the
            result of another training.
    """

    epochs: int
    sampler: Part
    optimizer: OptimizerSettings
    steps_per_epoch: int = 0
    patience: int = 0
    precision: Precision = "float32"
    strategy: Strategy = ""
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    methods: Sequence[Part] = ()
    keep_start: bool = True

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingSettings":
        """Settings from plain values, such as those of an experiment file after the recipe.

        Raises:
            UsageError: E_PARAMETER_UNKNOWN.
        """
        takes = sorted(each.name for each in fields(cls))
        if unknown := sorted(set(values) - set(takes)):
            raise UsageError("E_PARAMETER_UNKNOWN", f"training takes {takes}. Received unknown: {unknown}")
        return cls(**{**values, "optimizer": OptimizerSettings.from_dict(values["optimizer"])})
