"""Validation and dtype of the layers inside combined losses."""

from typing import Any

import keras

from anchorage.losses.base import LossLayer, call_arguments


def with_dtype(name: str, layer: keras.layers.Layer, policy: Any) -> keras.layers.Layer:
    """The layer itself, or a copy where its dtype policy differs from that of the combined loss.

    Raises:
        ValueError: if the argument `name` holds no layer.
    """
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError(
            f"`{name}` must be a Keras layer; `create_loss` makes layers of the tables of an experiment file. "
            f"Received: {name}={layer!r}"
        )
    if layer.dtype_policy.name == policy.name:
        return layer
    return type(layer).from_config({**layer.get_config(), "dtype": policy.name})


def needed(num_classes: int | None) -> int:
    """The number of classes for the default losses of a combined loss.

    Raises:
        ValueError: if it is None.
    """
    if num_classes is None:
        raise ValueError("`num_classes` is needed for the losses inside by default. Received: num_classes=None")
    return num_classes


def check_compares(loss: keras.layers.Layer, *, or_weighs_rows: bool = False) -> None:
    """Raise unless a loss takes `references`, pairs chosen by its caller.

    Args:
        loss: any loss.
        or_weighs_rows: accept a loss that takes `row_weights` instead.

    Raises:
        ValueError: listing the losses that do.
    """
    wanted = {"references", "row_weights"} if or_weighs_rows else {"references"}
    if wanted & call_arguments(loss):
        return
    able = sorted(cls.__name__ for cls in LossLayer.__subclasses__() if wanted & set(cls.takes))
    kind = "over pairs, or over items that can be weighted" if or_weighs_rows else "over pairs"
    raise ValueError(f"`loss` must be a loss {kind}, one of {able}. Received: loss={type(loss).__name__}")
