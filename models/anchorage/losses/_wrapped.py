"""What the losses that wrap a pair loss share."""

from collections.abc import Mapping
from typing import Any

import keras

from anchorage.losses._members import make_member
from anchorage.losses.base import call_arguments
from anchorage.mining import MINERS
from anchorage.registry import create


def make_pair_loss(
    spec: Mapping[str, Any], dtype: Any, num_classes: int | None = None, *, or_rows: bool = False
) -> keras.layers.Layer:
    """Make the inner loss, which must be able to compare the batch with something else.

    Args:
        spec: as in an experiment file.
        dtype: dtype policy of the wrapper.
        num_classes: goes to a loss that asks for it, unless None.
        or_rows: take a loss over items that can weigh them as well.

    Raises:
        ValueError: if it is not; the message lists those that are.
    """
    loss = make_member(spec, num_classes, dtype)
    wanted = {"references", "row_weights"} if or_rows else {"references"}
    if not wanted & call_arguments(type(loss)):
        from anchorage.losses import LOSSES

        able = sorted(name for name, cls in LOSSES.items() if wanted & call_arguments(cls))
        kind = "a loss over pairs or over items that a miner can weigh" if or_rows else "a loss over pairs"
        raise ValueError(f"`loss` must be {kind}, one of {able}. Received: loss={dict(spec)}")
    return loss


def make_miner(spec: Mapping[str, Any] | None) -> keras.layers.Layer | None:
    """Make a miner of pairs from `{"name": ..., "params": {...}}`; None for none.

    Raises:
        ValueError: if `spec` is not written that way.
        UsageError: on an unknown name or parameter.
    """
    if spec is None:
        return None
    if not isinstance(spec, Mapping) or "name" not in spec or set(spec) - {"name", "params"}:
        raise ValueError(f"Expected a miner as {{'name': ..., 'params': {{...}}}}. Received: {spec!r}")
    return create(MINERS, spec["name"], spec.get("params"), base=keras.layers.Layer)
