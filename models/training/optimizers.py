"""Keras optimizers whose learning rate differs between groups of weights."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from models.errors import UsageError
from models.training.distribution import WholeGradients

UNDECAYED = frozenset({"proxies"})  # a class's stand-in must not drift to the origin while its class is absent


class RateFactors(WholeGradients):
    """Mixin: multiplies the learning rate of some weights, and holds some still at first.

    A weight belongs to the group `key` if `key` is one of the parts of its path: the path
    `"proxy_nca_loss/proxy_bank/proxies"` has the part `"proxies"`; or if `groups` names its path under `key`. A
    weight in several groups gets the product. Proxies get no weight decay. Saved and loaded with the optimizer.

    Args:
        rate_factors: factor on the learning rate by group, each at least 0;
            a group without weights has no effect.
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
        for name in ("rate_factors", "frozen_steps"):
            for key, value in getattr(self, name).items():
                if value < 0:
                    raise ValueError(f"Values in `{name}` must not be negative. Received: {key!r}: {value}")

    def update_step(self, gradient, variable, learning_rate):
        names = self._names(variable)
        factor = math.prod(self.rate_factors.get(name, 1.0) for name in names)
        frozen = self._frozen_until(names)
        if frozen:
            moves = ops.cast(self._iterations >= frozen, "float32")
            factor = factor * moves  # running means of the gradient are kept meanwhile, to start from
            if self.weight_decay is not None and self._decays(variable):
                self.assign_sub(variable, variable * self.weight_decay * learning_rate * moves)
        super().update_step(gradient, variable, learning_rate * factor)

    def _frozen_until(self, names: list[str]) -> int:
        return max(self.frozen_steps.get(name, 0) for name in names)

    def _decays(self, variable) -> bool:
        return UNDECAYED.isdisjoint(self._names(variable)) and super()._use_weight_decay(variable)  # type: ignore[misc]

    def _names(self, variable) -> list[str]:
        # TensorFlow hands over its own variable, which has no path: find the Keras one by its place.
        place = self._get_variable_index(variable)  # type: ignore[attr-defined]
        path = self._trainable_variables[place].path  # type: ignore[attr-defined]
        return [*path.split("/"), *(key for key, paths in self.groups.items() if path in paths)]

    def _use_weight_decay(self, variable) -> bool:
        return not self._frozen_until(self._names(variable)) and self._decays(
            variable
        )  # the frozen see to it themselves

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
        rate_factors: factor on the learning rate by part of a weight's path, such as `{"proxies": 100.0}`.
        weight_decay: decoupled decay a step, times the learning rate; proxies get none.
        frozen_steps: steps for which a group does not move, such as `{"trunk": 500}`.
        groups: the paths of weights by group, for groups that a path does not show.
        **params: further arguments of the Keras optimizer, such as `momentum`, `global_clipnorm` or
            `gradient_accumulation_steps` (a pair loss still sees one batch at a time).

    Raises:
        UsageError: `E_NAME_UNKNOWN` or `E_PARAMETER_UNKNOWN`.
        ValueError: if the optimizer refuses a value.
    """
    if name not in OPTIMIZERS:
        raise UsageError("E_NAME_UNKNOWN", f"Unknown optimizer {name!r}. Known: {sorted(OPTIMIZERS)}")
    cls = OPTIMIZERS[name]
    keras_class = getattr(keras.optimizers, cls.__name__)
    takes = sorted(set(inspect.signature(keras_class).parameters) - {"kwargs", "name", "learning_rate", "weight_decay"})
    unknown = sorted(set(params) - set(takes))
    if unknown:
        raise UsageError("E_PARAMETER_UNKNOWN", f"optimizer {name!r} takes {takes}. Received unknown: {unknown}")
    if weight_decay is not None:
        params["weight_decay"] = weight_decay  # left out otherwise: AdamW has a default of its own
    return cls(
        learning_rate=learning_rate, rate_factors=rate_factors, frozen_steps=frozen_steps, groups=groups, **params
    )
