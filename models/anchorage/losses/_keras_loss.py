"""A `keras.losses.Loss`, such as those of TensorFlow Similarity, as a loss layer."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
from keras import ops

from anchorage.errors import UsageError
from anchorage.losses.base import LossLayer
from anchorage.registry import constructor_signature, create, find_class

# "auto", the default of Keras 2 that TensorFlow Similarity still has, is refused by Keras 3.
REDUCTIONS = ("sum_over_batch_size", "sum")


def is_keras_loss(name: str) -> bool:
    """Whether `"package.module:ClassName"` leads to a subclass of `keras.losses.Loss`."""
    try:
        find_class({}, name, keras.losses.Loss)
    except UsageError:
        return False
    return True


@keras.saving.register_keras_serializable(package="anchorage")
class KerasLoss(LossLayer):
    """Computes a `keras.losses.Loss` of embeddings and integer labels; `create_loss` uses it for such classes.

    A loss whose `call` names its first argument `y_true` gets labels and embeddings. Any other, such as TensorFlow
    Similarity's `SimCLRLoss` with `call(za, zb)`, gets two views of every item: the rows, sorted by label, in
    pairs. Every label must then occur an even number of times, otherwise the loss is nan.

    Labels stay integers, where Keras would cast them to float32, in which ids above 16,777,216 are no longer distinct.
    The costs of the items are reduced here, so that the reduction is always explicit.

    Args:
        loss: `"package.module:ClassName"`.
        params: constructor arguments of that class. Its `reduction` is `"sum_over_batch_size"`, the mean, unless
            they say `"sum"`.

    Call arguments:
        embeddings: `(N, D)` float tensor, not normalized.

    Returns:
        Scalar float32 tensor.

    Raises:
        UsageError: on an unknown class or parameter.
        ValueError: on another reduction or shapes that do not fit together.

    Example:
        >>> loss = KerasLoss("keras.losses:Circle", {"gamma": 2.0, "margin": 0.5})
        >>> round(float(loss(keras.ops.ones((3, 2)) / 2**0.5, keras.ops.array([0, 0, 1]))), 4)
        0.8755
    """

    def __init__(self, loss: str, params: Mapping[str, Any] | None = None, **kwargs):
        super().__init__(**kwargs)
        self.loss = loss
        self.params = dict(params or {})
        self._reduction = self.params.get("reduction", REDUCTIONS[0])
        if self._reduction not in REDUCTIONS:
            raise ValueError(f"`reduction` must be one of {list(REDUCTIONS)}. Received: reduction={self._reduction!r}")
        cls = find_class({}, loss, keras.losses.Loss)
        inner = _make(cls, loss, self.params, self._reduction)
        self._takes_labels = "y_true" in inspect.signature(inner.call).parameters
        self._costs = _traceable(inner.call) if self._takes_labels else inner.call

    def compute(self, embeddings, labels):
        embeddings, labels = ops.convert_to_tensor(embeddings), ops.convert_to_tensor(labels)
        if self._takes_labels:
            return self._reduced(labels, embeddings)
        count = ops.shape(labels)[0]
        order = ops.argsort(labels)
        views = order[: count - count % 2 : 2], order[1::2]
        first, second = (ops.take(labels, view) for view in views)
        whole = ops.logical_and(count % 2 == 0, ops.all(first == second))
        value = self._reduced(*(ops.take(embeddings, view, axis=0) for view in views))
        return ops.where(whole, value, float("nan"))  # an item lacks its second view

    def _reduced(self, *inputs):
        costs = self._costs(*inputs)
        return ops.sum(costs) if self._reduction == "sum" else ops.mean(costs)


def _make(cls: type, name: str, params: Mapping[str, Any], reduction: str) -> keras.losses.Loss:
    arguments = constructor_signature(cls).parameters.values()
    open_ended = any(argument.kind is inspect.Parameter.VAR_KEYWORD for argument in arguments)
    if open_ended or any(argument.name == "reduction" for argument in arguments):
        table: dict[str, Any] = {name: partial(cls, reduction=reduction)}
        return create(table, name, {key: value for key, value in params.items() if key != "reduction"})
    return create({name: cls}, name, params)


def _traceable(call: Callable) -> Callable:
    """The same function; in TensorFlow as a `tf.function`, which traces Python branches on tensors."""
    if keras.backend.backend() != "tensorflow":
        return call
    import tensorflow as tf  # Keras has loaded it

    return tf.function(call)
