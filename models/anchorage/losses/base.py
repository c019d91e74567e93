"""What every loss is: a Keras layer that checks its arguments and hides no embedding that is not finite."""

from collections.abc import Callable
from functools import reduce, wraps
from typing import Any

import keras
from keras import ops

from anchorage.arguments import check_arguments
from anchorage.registry import constructor_signature


class LossLayer(keras.layers.Layer):
    """Base of the losses; a subclass defines `call(embeddings, labels, ...)` with a scalar as its result.

    Constructor arguments must be what their annotations say, numbers finite ones.

    A nan or an infinity among the embeddings makes the loss nan, and their gradient, whatever masks and hinges would
    make of it: a training whose encoder blew up must not look like one that has nothing left to learn. What the loss
    remembers, such as a memory or a running mean, stays as it was before that batch. The same goes for all other
    floats that the loss is called with. Where all are finite, value and gradients are those of `call`.

    Raises:
        ValueError: on an argument of another kind.
    """

    def __new__(cls, *args, **kwargs):
        signature = constructor_signature(cls)
        check_arguments(signature.parameters, signature.bind_partial(*args, **kwargs).arguments)
        return super().__new__(cls, *args, **kwargs)

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "call" in vars(cls):
            cls.call = _nan_where_not_finite(cls.call)


def _nan_where_not_finite(call: Callable) -> Callable:
    @wraps(call)
    def guarded(self, embeddings, labels, *args, **kwargs):
        given = embeddings, args, kwargs
        whole = reduce(ops.logical_and, (ops.all(ops.isfinite(x)) for x in keras.tree.flatten(given) if _is_float(x)))
        # Zeros in the place of what is not finite: every loss is safe with them, while indices made of nan are not.
        clean, args, kwargs = keras.tree.map_structure(
            lambda x: ops.where(whole, x, ops.zeros_like(x)) if _is_float(x) else x, given
        )
        states = [] if kwargs.get("training") is False else self.non_trainable_weights
        before = [ops.copy(ops.convert_to_tensor(state)) for state in states]
        value = call(self, clean, labels, *args, **kwargs)
        for state, old in zip(states, before, strict=True):
            state.assign(ops.where(whole, ops.convert_to_tensor(state), old))
        # The gradient is nan as well, so that an optimizer that scales the loss skips the step.
        factor = ops.cast(ops.where(whole, 1.0, float("nan")), clean.dtype)
        return ops.where(whole, value, factor * ops.sum(embeddings))

    return guarded


def _is_float(x: Any) -> bool:
    return hasattr(x, "dtype") and "float" in keras.backend.standardize_dtype(x.dtype)
