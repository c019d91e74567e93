"""Losses made of other losses: how a member is written and made."""

from collections.abc import Mapping
from typing import Any

import keras


def make_member(
    spec: keras.layers.Layer | Mapping[str, Any], num_classes: int | None, dtype: Any
) -> keras.layers.Layer:
    """Make one of the losses a combined loss is made of.

    Args:
        spec: a layer, or `{"name": ..., "params": {...}}`, as in an experiment file; `params` may be missing.
        num_classes: goes to the members that ask for it, unless None.
        dtype: dtype policy of the combined loss; a layer of another one is made anew.

    Raises:
        ValueError: if `spec` is not written that way.
        UsageError: on an unknown name or parameter.
    """
    if isinstance(spec, keras.layers.Layer):
        return with_dtype(spec, dtype)
    from anchorage.losses import create_loss  # the table holds the combined losses too

    if not isinstance(spec, Mapping) or "name" not in spec or set(spec) - {"name", "params"}:
        raise ValueError(f"Expected a loss as {{'name': ..., 'params': {{...}}}}. Received: {spec!r}")
    facts = {} if num_classes is None else {"num_classes": num_classes}
    loss = create_loss(spec["name"], spec.get("params"), **facts)
    return type(loss).from_config({**loss.get_config(), "dtype": dtype.name})


def with_dtype(layer: keras.layers.Layer, dtype: Any) -> keras.layers.Layer:
    """The layer itself, or one like it where its dtype policy is another."""
    if layer.dtype_policy.name == dtype.name:
        return layer
    return type(layer).from_config({**layer.get_config(), "dtype": dtype.name})


def as_given(part: Any, made: Any) -> Any:
    """What a combined loss keeps of a part for its config: its own copy of what is written, or the layer in use."""
    return dict(part) if isinstance(part, Mapping) else made
