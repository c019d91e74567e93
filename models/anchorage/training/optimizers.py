"""Keras optimizers whose learning rate differs between groups of weights."""

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

# What a class has of its own must not drift to the origin while the class is absent: proxies, their certainties and the
# boundaries of the margin loss, whose name is that of batch norm's offsets.
UNDECAYED = frozenset({"proxies", "concentrations", "margin_loss"})
MAY_BE_ABSENT = frozenset({"proxies"})  # the default rates name them, and not every loss has some
AVERAGING = frozenset({"use_ema", "ema_momentum", "ema_overwrite_frequency"})

_COUNTER = re.compile(r"_\d+$")


class WholeGradients:
    """Mixin of a Keras optimizer under a strategy: a replica works with the gradients of the whole batch.

    Keras adds up the gradients of the replicas last, after it has clipped each, asked whether it is finite, and
    accumulated it. Here they are added up first. All that comes then is the same on every replica, so that each updates
    its own copy of a weight; Keras' own way, one update for all, cannot be told to wait for accumulated gradients.
    With one replica all is as in Keras. It is `apply_gradients` that adds up; `apply` wants them as sums.
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
    """`keras.optimizers.LossScaleOptimizer` that leaves out a step on all replicas or on none."""


class RateFactors(WholeGradients):
    """Mixin: multiplies the learning rate of some weights, and holds some still at first.

    A weight belongs to the group `key` if `key` is one of the parts of its path: the path
    `"proxy_nca_loss/proxy_bank_1/proxies"` has the parts `"proxies"` and, with Keras' counter or without,
    `"proxy_bank"`; or if `groups` names its path under `key`. A weight in several groups gets the product. Weight decay
    goes with the rate of the group; proxies get none. A weight that is held still does not count in `global_clipnorm`,
    and its running means of the gradient are kept meanwhile, to start from. Saved and loaded with the optimizer.

    Args:
        rate_factors: factor on the learning rate by group, each at least 0; 0 holds the group still for good.
        frozen_steps: steps for which the weights of a group do not move, by group.
        groups: further groups, each the paths of its weights.
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

    def holds(self, path: str) -> bool:
        """Whether the weight of this path is held still at the step that comes next."""
        return not float(ops.convert_to_numpy(self._moves(path)))

    def check_groups(self, paths: Sequence[str]) -> None:
        """Refuse a group that none of these weights belongs to.

        Raises:
            UsageError: E_NAME_UNKNOWN, with the groups there are.
        """
        known = {name for path in paths for name in self._names(path)} | MAY_BE_ABSENT | set(self.groups)
        for setting in ("rate_factors", "frozen_steps"):
            for key in sorted(set(getattr(self, setting)) - known):
                close = difflib.get_close_matches(key, known, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                inside = {name for path in self.groups.get("trunk", ()) for name in self._names(path)} - {"trunk"}
                told = ", ".join(sorted(known - inside)) + (", or a part of a path in the trunk" if inside else "")
                raise UsageError("E_NAME_UNKNOWN", f"`{setting}` names the group {key!r}. Known: {told}.{hint}")

    def update_step(self, gradient, variable, learning_rate):
        path = self._path(variable)
        rate = learning_rate * self._factor(path) * self._moves(path)
        if self.weight_decay is not None and self._use_weight_decay(variable):
            self.assign_sub(variable, variable * self.weight_decay * ops.cast(rate, variable.dtype))
        super().update_step(gradient, variable, rate)

    def _factor(self, path: str) -> float:
        return math.prod(self.rate_factors.get(name, 1.0) for name in self._names(path))

    def _moves(self, path: str):
        """1, or 0 for a weight that is held still; a tensor for one that is so only at first."""
        frozen = max(self.frozen_steps.get(name, 0) for name in self._names(path))
        if frozen and self._factor(path):
            return ops.cast(self._iterations >= frozen, "float32")  # type: ignore[attr-defined]
        return 1.0 if self._factor(path) else 0.0

    def _path(self, variable) -> str:
        # TensorFlow hands over its own variable, which has no path: find the Keras one by its place.
        return self._trainable_variables[self._get_variable_index(variable)].path  # type: ignore[attr-defined]

    def _names(self, path: str) -> list[str]:
        parts = path.split("/")
        plain = {_COUNTER.sub("", part) for part in parts}  # a second learner of a process has others
        return [*{*parts, *plain}, *(key for key, paths in self.groups.items() if path in paths)]

    def _use_weight_decay(self, variable) -> bool:
        exempt = not UNDECAYED.isdisjoint(self._names(self._path(variable)))
        return not exempt and super()._use_weight_decay(variable)  # type: ignore[misc]

    def _apply_weight_decay(self, variables) -> None:
        """Left to `update_step`, which knows the rate of each weight."""

    def _backend_apply_gradients(self, grads, trainable_variables) -> None:
        self._clipped = tuple(self._path(variable) for variable in trainable_variables)
        super()._backend_apply_gradients(grads, trainable_variables)  # type: ignore[misc]

    def _clip_gradients(self, grads):
        clip = super()._clip_gradients
        moves = [self._moves(path) for path in self._clipped]
        if not self.global_clipnorm or all(isinstance(move, float) and move == 1.0 for move in moves):
            return clip(grads)  # the other limits take each weight by itself
        moving = clip([_times(gradient, move) for gradient, move in zip(grads, moves, strict=True)])
        return [
            own if isinstance(move, float) and move == 1.0 else own + _times(whole, 1.0 - move)
            for own, whole, move in zip(moving, clip(grads), moves, strict=True)
        ]

    def get_config(self):
        own = {name: getattr(self, name) for name in ("rate_factors", "frozen_steps", "groups")}
        return {**super().get_config(), **own}


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


def _times(gradient, factor):
    gradient = ops.convert_to_tensor(gradient)  # rows that were looked up come as slices
    return gradient * ops.cast(factor, gradient.dtype)


def warm_up_steps(optimizer: keras.optimizers.Optimizer) -> int:
    """Steps after which the learning rate is at its height and every group moves that ever will."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    rising = getattr(getattr(optimizer, "_learning_rate", None), "warmup_steps", 0)
    factors = getattr(optimizer, "rate_factors", {})
    frozen = getattr(optimizer, "frozen_steps", {}).items()
    return max([rising, *(steps for group, steps in frozen if factors.get(group, 1.0))])


def create_optimizer(
    name: str,
    learning_rate: float,
    rate_factors: Mapping[str, float] | None = None,
    weight_decay: float | None = None,
    frozen_steps: Mapping[str, int] | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    **params: Any,
) -> keras.optimizers.Optimizer:
    """Make an optimizer.

    Args:
        name: a key of `OPTIMIZERS`.
        learning_rate: step size, or a Keras learning-rate schedule.
        rate_factors: factor on the learning rate by part of a weight's path, such as `{"proxies": 100.0}`; 0 holds a
            group still for good.
        weight_decay: decoupled decay a step, times the learning rate of the weight; proxies get none.
        frozen_steps: steps for which a group does not move, such as `{"trunk": 500}`.
        groups: the paths of weights by group, for groups that a path does not show.
        **params: further arguments of the Keras optimizer, such as `momentum`, `global_clipnorm` or
            `gradient_accumulation_steps` (a pair loss still sees one batch at a time). Keras' own average of the
            weights, `use_ema`, is not among them: it overwrites the weights after each call of `fit`.

    Raises:
        UsageError: `E_NAME_UNKNOWN` or `E_PARAMETER_UNKNOWN`.
        ValueError: if the optimizer refuses a value.
    """
    if name not in OPTIMIZERS:
        raise UsageError("E_NAME_UNKNOWN", f"Unknown optimizer {name!r}. Known: {sorted(OPTIMIZERS)}")
    cls = OPTIMIZERS[name]
    keras_class = getattr(keras.optimizers, cls.__name__)
    own = {"kwargs", "name", "learning_rate", "weight_decay", *AVERAGING}
    takes = sorted(set(inspect.signature(keras_class).parameters) - own)
    unknown = sorted(set(params) - set(takes))
    if unknown:
        hint = "" if AVERAGING.isdisjoint(unknown) else ". Averaged weights are the method 'moving_average'"
        raise UsageError("E_PARAMETER_UNKNOWN", f"optimizer {name!r} takes {takes}. Received unknown: {unknown}{hint}")
    if weight_decay is not None:
        params["weight_decay"] = weight_decay  # left out otherwise: AdamW has a default of its own
    return cls(
        learning_rate=learning_rate, rate_factors=rate_factors, frozen_steps=frozen_steps, groups=groups, **params
    )
