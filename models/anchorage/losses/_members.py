"""Losses made of other losses: how a member is written and made."""

from collections.abc import Mapping
from typing import Any

import keras


def make_member(spec: Mapping[str, Any], num_classes: int | None, dtype: Any) -> keras.layers.Layer:
    """Make one of the losses a combined loss is made of.

    Args:
        spec: `{"name": ..., "params": {...}}`, as in an experiment file; `params` may be missing.
        num_classes: goes to the members that ask for it, unless None.
        dtype: dtype policy of the combined loss.

    Raises:
        ValueError: if `spec` is not written that way.
        UsageError: on an unknown name or parameter.
    """
    from anchorage.losses import create_loss  # the table holds the combined losses too

    if not isinstance(spec, Mapping) or "name" not in spec or set(spec) - {"name", "params"}:
        raise ValueError(f"Expected a loss as {{'name': ..., 'params': {{...}}}}. Received: {spec!r}")
    facts = {} if num_classes is None else {"num_classes": num_classes}
    loss = create_loss(spec["name"], spec.get("params"), **facts)
    return type(loss).from_config({**loss.get_config(), "dtype": dtype.name})
