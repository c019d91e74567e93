"""The base class of the losses: a Keras layer that checks its batch and propagates embeddings that are not finite."""

import inspect
from collections.abc import Mapping
from functools import reduce
from types import MappingProxyType
from typing import Any, ClassVar

import keras
from keras import ops

from anchorage.arguments import check_arguments
from anchorage.labels import check_class_labels
from anchorage.pairs.masks import check_batch
from anchorage.registry import constructor_signature


class LossLayer(keras.layers.Layer):
    """Base class of the losses; a subclass implements `compute(embeddings, labels, ...)` and returns a scalar.

    `call` checks the batch and calls `compute`. If an embedding, or another float among the arguments, is nan or
    infinite, the loss and its gradient are nan, even if a mask or a hinge would hide it: a training that diverged must
    not look like one that has converged. States of the loss, such as a memory or a running mean, are then left
    unchanged. For finite inputs, value and gradients are those of `compute`.

    Constructor arguments are checked against their annotations, and numbers must be finite. `get_config` holds each
    argument: the attribute of that name, or else the value given. Losses are computed in float32 under every policy of
    mixed precision, unless `dtype` says otherwise.

    Attributes:
        takes: keyword arguments of `compute`: `"references"`, `"row_weights"`, `"novel_proxies"`, further outputs of an
            encoder such as `"heads"`, and `"training"`.
        parts: constructor arguments that are layers, each with the table of the names that an experiment file can use
            for it. None stands for `LOSSES`, which a loss cannot import.
        dense_labels: whether labels lie in `0 .. num_classes - 1`.

    Call arguments:
        embeddings: `(N, D)` float tensor.
        labels: `(N,)` integer tensor of class ids.
        training: `False` leaves what the loss remembers as it is.

    Returns:
        Scalar tensor. A compiled call with a label out of range gives nan.

    Raises:
        ValueError: on an argument of another kind, shapes that do not fit together, or (eager calls) a label out of
            range.
        TypeError: if `labels` are not integers.
    """

    takes: ClassVar[tuple[str, ...]] = ()
    parts: ClassVar[Mapping[str, Mapping[str, type] | None]] = {}
    dense_labels: ClassVar[bool] = False
    _given: Mapping[str, Any]
    # For `from_config`: options of earlier releases with the values they held by default, and pairs of other values
    # they could hold with the arguments that stand for them today.
    _removed: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    _replaced: ClassVar[tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...]] = ()

    def __new__(cls, *args, **kwargs):
        signature = constructor_signature(cls)
        bound = signature.bind_partial(*args, **kwargs)
        check_arguments(signature.parameters, bound.arguments)
        loss = super().__new__(cls, *args, **kwargs)
        bound.apply_defaults()
        # Past Keras' own `__setattr__`, and no dict: layers among the arguments are tracked where the loss puts them.
        object.__setattr__(loss, "_given", MappingProxyType(bound.arguments))
        return loss

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})

    @property
    def label_range(self) -> int | None:
        """Labels lie in `0 .. label_range - 1`, those of `novel_proxies` beyond; None if any integer is allowed."""
        return self.num_classes if self.dense_labels else None

    def compute(self, embeddings, labels, **kwargs):
        """The loss of a valid batch.

        Args:
            embeddings: `(N, D)` finite float tensor.
            labels: `(N,)` integer tensor, in range.
            **kwargs: the arguments in `takes` that `call` was given.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `compute(embeddings, labels)`.")

    def call(self, embeddings, labels, *, training=None, **kwargs):
        kwargs |= kwargs.pop("kwargs", {})  # Keras nests them when it traces `call` to build the layers inside
        check_batch(embeddings, labels)
        floats = [x for x in keras.tree.flatten((embeddings, kwargs)) if _is_float(x)]
        whole = reduce(ops.logical_and, (ops.all(ops.isfinite(x)) for x in floats))
        # Zeros in place of values that are not finite: every loss can handle them, but not indices computed from nan.
        clean, extras = keras.tree.map_structure(
            lambda x: ops.where(whole, x, ops.zeros_like(x)) if _is_float(x) else x, (embeddings, kwargs)
        )
        in_range = None
        if (classes := self.label_range) is not None:
            novel = kwargs.get("novel_proxies")
            labels, in_range = check_class_labels(labels, classes if novel is None else classes + ops.shape(novel)[0])
        states = [] if training is False else self.non_trainable_weights
        before = [ops.copy(ops.convert_to_tensor(state)) for state in states]
        if "training" in self.takes:
            extras["training"] = training
        value = _as_written(self.compute)(clean, labels, **extras)
        if in_range is not None:
            value = value * ops.cast(in_range, value.dtype)
        for state, old in zip(states, before, strict=True):
            state.assign(ops.where(whole, ops.convert_to_tensor(state), old))
        # The gradient is nan as well, so that an optimizer with loss scaling skips the step.
        factor = ops.cast(ops.where(whole, 1.0, float("nan")), clean.dtype)
        return ops.where(whole, value, factor * ops.sum(embeddings))

    def get_config(self):
        own = {name: getattr(self, name, given) for name, given in self._arguments()}
        return {**super().get_config(), **{name: serialized(value) for name, value in own.items()}}

    @classmethod
    def from_config(cls, config):
        config = {name: _deserialized(value) for name, value in cls.without_removed(config).items()}
        if cls.parts:  # until 0.1 a file holds tables as an experiment file does, and the number of classes for them
            config = keras.saving.get_registered_object("anchorage>make_parts")(cls, config, older=True)
            if "num_classes" not in constructor_signature(cls).parameters:
                config.pop("num_classes", None)
        return super().from_config(config)

    @classmethod
    def without_removed(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The config of an earlier release without the options that are gone."""
        kept = {name: value for name, value in config.items() if name not in cls._removed}
        changed = {name: config[name] for name in cls._removed if name in config and config[name] != cls._removed[name]}
        if not changed:
            return kept
        for old, new in cls._replaced:
            if changed == old:
                return {**kept, **new}
        known = "".join(f", or {dict(old)}, which is now {dict(new)}" for old, new in cls._replaced)
        raise ValueError(
            f"{cls.__name__} no longer takes {sorted(changed)}. Expected in an older config: "
            f"{dict(cls._removed)}{known}. Received: {changed}. Build the loss anew with the options it takes, or load "
            "the file with the release that wrote it."
        )

    def _arguments(self) -> list[tuple[str, Any]]:
        """Names and values of the constructor's own arguments, without those for Keras."""
        open_ended = inspect.Parameter.VAR_KEYWORD
        parameters = constructor_signature(type(self)).parameters
        return [(name, value) for name, value in self._given.items() if parameters[name].kind is not open_ended]


def _as_written(compute):
    """Disable AutoGraph for `compute`, as Keras does in `fit`; it takes half of the time of an eager step."""
    if keras.backend.backend() != "tensorflow":
        return compute
    import tensorflow as tf

    return tf.autograph.experimental.do_not_convert(compute)


def call_arguments(loss: keras.layers.Layer | type[keras.layers.Layer]) -> set[str]:
    """The arguments that a loss, or a class of losses, can be called with: its `takes`, or its signature."""
    cls = loss if isinstance(loss, type) else type(loss)
    if issubclass(cls, LossLayer) and cls.call is LossLayer.call:
        return {"embeddings", "labels", *loss.takes}
    return set(inspect.signature(loss.call).parameters)


def serialized(value: Any) -> Any:
    """Serialize a layer, or the layers in a list; return anything else unchanged."""
    if isinstance(value, keras.layers.Layer):
        written = keras.saving.serialize_keras_object(value)
        written.pop("build_config", None)  # the loss that holds the layer builds it
        return written
    some = isinstance(value, list | tuple) and any(isinstance(part, keras.layers.Layer) for part in value)
    return [serialized(part) for part in value] if some else value


def _deserialized(value: Any) -> Any:
    """Reverse `serialized`."""
    if isinstance(value, Mapping) and {"class_name", "config"} <= value.keys() and value["class_name"] != "DTypePolicy":
        return keras.saving.deserialize_keras_object(value)
    return [_deserialized(part) for part in value] if isinstance(value, list) else value


def _is_float(x: Any) -> bool:
    return hasattr(x, "dtype") and "float" in keras.backend.standardize_dtype(x.dtype)
