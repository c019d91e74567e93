"""Keras optimizers with learning rates per group of weights."""

import difflib
import inspect
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from anchorage.errors import UsageError
from anchorage.replicas import replicas, sum_over_replicas

# Weights per class get no weight decay, which would shrink them while their class is not in the batch: proxies, their
# concentrations, and the boundaries of the margin loss (`beta`, also the name of batch norm's offsets).
UNDECAYED = frozenset({"proxies", "concentrations", "margin_loss"})
MAY_BE_ABSENT = frozenset({"proxies"})  # in the default rates, although not every loss has proxies
AVERAGING = frozenset({"use_ema", "ema_momentum", "ema_overwrite_frequency"})

_COUNTER = re.compile(r"_\d+$")


class WholeGradients:
    """Optimizer mixin that uses the gradients of the global batch on every replica of a strategy.

    Keras clips the gradients of each replica, checks them for NaN and accumulates them before it sums them over
    replicas. This mixin sums them first, in `apply_gradients` (`apply` expects sums). All later operations are equal on
    every replica, so each updates its own copy of a weight; the merged update of Keras does not support gradient
    accumulation. With one replica nothing changes.
    """

    def apply_gradients(self, grads_and_vars):
        gradients, variables = zip(*grads_and_vars, strict=True)
        return super().apply_gradients(zip(sum_over_replicas(gradients), variables, strict=True))

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        if replicas() == 1:
            super()._backend_update_step(grads, trainable_variables, learning_rate)
        else:
            for gradient, variable in zip(grads, trainable_variables, strict=True):
                self.update_step(gradient, variable, learning_rate)

    def _backend_increment_gradient_accumulators(self, grads, acc_grads):
        if replicas() == 1:
            super()._backend_increment_gradient_accumulators(grads, acc_grads)
        else:
            for gradient, accumulator in zip(grads, acc_grads, strict=True):
                accumulator.assign_add(gradient)


@keras.saving.register_keras_serializable(package="anchorage")
class LossScaleOptimizer(WholeGradients, keras.optimizers.LossScaleOptimizer):
    """`keras.optimizers.LossScaleOptimizer` that skips a step on all replicas or on none."""


class RateFactors(WholeGradients):
    """Optimizer mixin with a learning-rate factor and a number of frozen steps per group of weights.

    A weight belongs to the group `key` if `key` is a part of its path, with or without Keras' counter: the path
    `"proxy_nca_loss/proxy_bank_1/proxies"` has the parts `"proxies"` and `"proxy_bank"`; or if `groups[key]` lists its
    path. A weight in several groups gets the product of their factors. Weight decay scales with the learning rate of
    the group; proxies get none. Frozen weights are not included in `global_clipnorm`, but their gradient moments are
    updated for the steps afterwards. The settings are saved with the optimizer.

    Args:
        rate_factors: learning-rate factor by group, at least 0; 0 freezes the group permanently.
        frozen_steps: number of steps for which a group is frozen, by group.
        groups: additional groups: paths of weights by group.
    """

    def __init__(
        self,
        *args: Any,
        rate_factors: Mapping[str, float] | None = None,
        frozen_steps: Mapping[str, int] | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.rate_factors = dict(rate_factors or {})
        self.frozen_steps = dict(frozen_steps or {})
        self.groups = {key: list(paths) for key, paths in (groups or {}).items()}
        self._clipped: tuple[str, ...] = ()
        for name in ("rate_factors", "frozen_steps"):
            for key, value in getattr(self, name).items():
                if value < 0:
                    raise ValueError(f"Values in `{name}` must not be negative. Received: {key!r}: {value}")

    def is_frozen(self, path: str) -> bool:
        """Return whether the weight of this path is frozen at the next step."""
        return not float(ops.convert_to_numpy(self._moves(path)))

    def check_groups(self, paths: Sequence[str]) -> None:
        """Raise if none of these weights belongs to a group of the settings.

        Raises:
            UsageError: E_NAME_UNKNOWN, with the known groups.
        """
        known = {name for path in paths for name in self._names(path)} | MAY_BE_ABSENT | set(self.groups)
        for setting in ("rate_factors", "frozen_steps"):
            for key in sorted(set(getattr(self, setting)) - known):
                close = difflib.get_close_matches(key, known, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                inside = {name for path in self.groups.get("trunk", ()) for name in self._names(path)} - {"trunk"}
                names = ", ".join(sorted(known - inside)) + (", or a part of a path in the trunk" if inside else "")
                raise UsageError("E_NAME_UNKNOWN", f"`{setting}` names the group {key!r}. Known: {names}.{hint}")

    def update_step(self, gradient, variable, learning_rate):
        path = self._path(variable)
        rate = learning_rate * self._factor(path) * self._moves(path)
        if self.weight_decay is not None and self._use_weight_decay(variable):
            self.assign_sub(variable, variable * self.weight_decay * ops.cast(rate, variable.dtype))
        super().update_step(gradient, variable, rate)

    def _factor(self, path: str) -> float:
        return math.prod(self.rate_factors.get(name, 1.0) for name in self._names(path))

    def _moves(self, path: str):
        """Return 0 for a frozen weight and 1 otherwise; a tensor if the weight is frozen for the first steps only."""
        frozen = max(self.frozen_steps.get(name, 0) for name in self._names(path))
        if frozen and self._factor(path):
            return ops.cast(self._iterations >= frozen, "float32")  # type: ignore[attr-defined]
        return 1.0 if self._factor(path) else 0.0

    def _path(self, variable) -> str:
        # The TensorFlow backend passes its own variable, which has no path: find the Keras variable by its index.
        return self._trainable_variables[self._get_variable_index(variable)].path  # type: ignore[attr-defined]

    def _names(self, path: str) -> list[str]:
        parts = path.split("/")
        plain = {_COUNTER.sub("", part) for part in parts}  # the counter differs for a second learner
        return [*{*parts, *plain}, *(key for key, paths in self.groups.items() if path in paths)]

    def _use_weight_decay(self, variable) -> bool:
        exempt = not UNDECAYED.isdisjoint(self._names(self._path(variable)))
        return not exempt and super()._use_weight_decay(variable)  # type: ignore[misc]

    def _apply_weight_decay(self, variables) -> None:
        """Do nothing: `update_step` applies weight decay with the learning rate of each weight."""

    def _backend_apply_gradients(self, grads, trainable_variables) -> None:
        self._clipped = tuple(self._path(variable) for variable in trainable_variables)
        super()._backend_apply_gradients(grads, trainable_variables)  # type: ignore[misc]

    def _clip_gradients(self, grads):
        clip = super()._clip_gradients
        moves = [self._moves(path) for path in self._clipped]
        if not self.global_clipnorm or all(isinstance(move, float) and move == 1.0 for move in moves):
            return clip(grads)  # the other limits apply to each weight separately
        moving = clip([_scale(gradient, move) for gradient, move in zip(grads, moves, strict=True)])
        return [
            clipped if isinstance(move, float) and move == 1.0 else clipped + _scale(whole, 1.0 - move)
            for clipped, whole, move in zip(moving, clip(grads), moves, strict=True)
        ]

    def get_config(self):
        settings = {name: getattr(self, name) for name in ("rate_factors", "frozen_steps", "groups")}
        return {**super().get_config(), **settings}


@keras.saving.register_keras_serializable(package="anchorage")
class Adam(RateFactors, keras.optimizers.Adam):
    """`keras.optimizers.Adam` with `rate_factors`."""


@keras.saving.register_keras_serializable(package="anchorage")
class AdamW(RateFactors, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` with `rate_factors`."""


@keras.saving.register_keras_serializable(package="anchorage")
class SGD(RateFactors, keras.optimizers.SGD):
    """`keras.optimizers.SGD` with `rate_factors`."""


@keras.saving.register_keras_serializable(package="anchorage")
class RMSprop(RateFactors, keras.optimizers.RMSprop):
    """`keras.optimizers.RMSprop` with `rate_factors`."""


OPTIMIZERS: dict[str, type[keras.optimizers.Optimizer]] = {"adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "sgd": SGD}


def _scale(gradient, factor):
    gradient = ops.convert_to_tensor(gradient)  # gradients of lookups are `IndexedSlices`
    return gradient * ops.cast(factor, gradient.dtype)


def warm_up_steps(optimizer: keras.optimizers.Optimizer) -> int:
    """Return the number of steps until the learning rate is at its maximum and no group is temporarily frozen."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    warmup = getattr(getattr(optimizer, "_learning_rate", None), "warmup_steps", 0)
    factors = getattr(optimizer, "rate_factors", {})
    frozen = getattr(optimizer, "frozen_steps", {}).items()
    return max([warmup, *(steps for group, steps in frozen if factors.get(group, 1.0))])


def create_optimizer(
    name: str,
    learning_rate: float,
    rate_factors: Mapping[str, float] | None = None,
    weight_decay: float | None = None,
    frozen_steps: Mapping[str, int] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    **params: Any,
) -> keras.optimizers.Optimizer:
    """Create an optimizer.

    Args:
        name: a key of `OPTIMIZERS`.
        learning_rate: learning rate, or a Keras learning-rate schedule.
        rate_factors: learning-rate factor by part of a weight's path, such as `{"proxies": 100.0}`; 0 freezes a group
            permanently.
        weight_decay: decoupled weight decay, multiplied by the learning rate of the weight; proxies get none.
        frozen_steps: number of steps for which a group is frozen, such as `{"trunk": 500}`.
        groups: paths of weights by group, for groups that are not a part of the path.
        **params: additional arguments of the Keras optimizer, such as `momentum`, `global_clipnorm` or
            `gradient_accumulation_steps` (a pair loss is still computed on one batch at a time). `use_ema` is not
            supported: it overwrites the weights after each call of `fit`.

    Raises:
        UsageError: `E_NAME_UNKNOWN` or `E_PARAMETER_UNKNOWN`.
        ValueError: if the optimizer rejects a value.
    """
    if name not in OPTIMIZERS:
        raise UsageError("E_NAME_UNKNOWN", f"Unknown optimizer {name!r}. Known: {sorted(OPTIMIZERS)}")
    cls = OPTIMIZERS[name]
    keras_class = getattr(keras.optimizers, cls.__name__)
    excluded = {"kwargs", "name", "learning_rate", "weight_decay", *AVERAGING}
    accepted = sorted(set(inspect.signature(keras_class).parameters) - excluded)
    unknown = sorted(set(params) - set(accepted))
    if unknown:
        hint = "" if AVERAGING.isdisjoint(unknown) else ". For averaged weights use the method 'moving_average'"
        raise UsageError(
            "E_PARAMETER_UNKNOWN", f"optimizer {name!r} takes {accepted}. Received unknown: {unknown}{hint}"
        )
    if weight_decay is not None:  # None keeps the default of AdamW
        params["weight_decay"] = weight_decay
    return cls(
        learning_rate=learning_rate, rate_factors=rate_factors, frozen_steps=frozen_steps, groups=groups, **params
    )
