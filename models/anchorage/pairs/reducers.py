"""Reducers: the costs of a batch become one number; the names follow pytorch-metric-learning.

Of its reducers `DoNothingReducer` has no use here, where a loss is one number; `MultipleReducers` neither, since the
terms of a loss share their reducer; and `DivisorReducer` is part of the losses whose formula has a divisor.
"""

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from keras import ops

from anchorage.labels import concrete_values
from anchorage.pairs.masks import mean_where

REDUCERS = ("avg_non_zero", "mean", "sum")
# Reducers of losses with one cost per row or per pair of rows; those with parameters are mappings.
ANY_REDUCERS = (*REDUCERS, "per_anchor", "threshold", "class_weighted")
# Further ones for per-pair costs; for per-anchor costs they equal `mean` and `avg_non_zero`.
ANCHOR_REDUCERS = (*ANY_REDUCERS, "anchor_mean", "anchor_mean_nonzero")
# Further ones for per-pair costs that also normalize by all entries of the matrix.
PAIR_REDUCERS = (*ANCHOR_REDUCERS, "sum_per_row", "sum_per_entry")
_PARAMETERS = {"threshold": {"low", "high"}, "class_weighted": {"weights"}}

Reducer = str | Mapping[str, Any]


def check_any_reducer(reducer: Reducer, known: Sequence[str] = ANY_REDUCERS) -> Reducer:
    """Return `reducer`, or raise a `ValueError` if it is not one that `reduce_costs` knows.

    Args:
        reducer: one of `ANY_REDUCERS`; `"threshold"` and `"class_weighted"` as mappings:
            `{"name": "threshold", "low": 0.1, "high": 2.0}`, either bound may be missing;
            `{"name": "class_weighted", "weights": [1.0, 0.5]}`, one weight for each class.
        known: the names that the loss takes.
    """
    name, params = _split(reducer)
    if name not in known:
        raise ValueError(f"`reducer` must be one of {list(known)}. Received: reducer={reducer!r}")
    wanted = _PARAMETERS.get(name, set())
    if set(params) - wanted or (wanted and not params):
        raise ValueError(f"`reducer` {name!r} takes {sorted(wanted)}. Received: reducer={reducer!r}")
    weights = params.get("weights", [])
    listed = isinstance(weights, Sequence) and not isinstance(weights, str)
    bounds = [params[key] for key in ("low", "high") if key in params]
    if not listed or not all(_is_number(x) and 0 <= x < math.inf for x in weights) or not all(map(_is_number, bounds)):
        raise ValueError(f"`reducer` {name!r} takes numbers, weights not below 0. Received: reducer={reducer!r}")
    return {"name": name, **params} if params else name


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)


def reduce_costs(costs, mask, reducer: Reducer, labels=None):
    """Scalar out of the costs that count.

    Args:
        costs: float tensor, not below 0: `(N,)` one for each anchor, or `(N, M)` one for each pair.
        mask: bool tensor of the same shape: which entries count.
        reducer: `"mean"` over the entries in `mask`, `"avg_non_zero"` over
            those of them above 0, or their `"sum"`; `"per_anchor"` the mean over all anchors of the
            mean over the anchor's pairs; `"anchor_mean"` that over the anchors with pairs alone and
            `"anchor_mean_nonzero"` the same of costs above 0, which classes of unequal size sway less;
            `"threshold"` the mean over those strictly between
            `low` and `high`; `"class_weighted"` the mean after each was
            multiplied with the weight of its anchor's class; `"sum_per_row"` the sum divided by the number of
            rows N, `"sum_per_entry"` by that of all entries, whether they are in `mask` or not.
        labels: `(N,)` integer tensor of the anchors' classes; for `"class_weighted"`.

    Returns:
        Scalar; 0 with zero gradient where nothing counts.
    """
    name = name_of(reducer)
    if name.startswith("sum"):
        shape = ops.shape(costs)
        parts = {"sum": 1, "sum_per_row": shape[0], "sum_per_entry": shape[0] * shape[-1]}[name]
        total = ops.sum(ops.where(mask, costs, ops.zeros_like(costs)))
        return total / ops.cast(ops.maximum(parts, 1), total.dtype)
    if name == "per_anchor" and len(costs.shape) == 2:
        return ops.mean(mean_where(costs, mask, axis=1))
    mask = counted(costs, mask, reducer)
    if name.startswith("anchor_mean") and len(costs.shape) == 2:
        costs, mask = mean_where(costs, mask, axis=1), ops.any(mask, axis=1)
    if name == "class_weighted":
        factors = class_factors(labels, reducer, costs.dtype)
        costs = costs * ops.reshape(factors, (-1,) + (1,) * (len(costs.shape) - 1))
    return mean_where(costs, mask)


def name_of(reducer: Reducer) -> str:
    """The reducer without its parameters."""
    return _split(reducer)[0]


def counted(costs, mask, reducer: Reducer):
    """Mask of the entries that the reducer averages, which can depend on their costs."""
    name, params = _split(reducer)
    if name in ("avg_non_zero", "anchor_mean_nonzero"):
        return ops.logical_and(mask, costs > 0)
    if name == "threshold":
        mask = ops.logical_and(mask, costs > params.get("low", float("-inf")))
        return ops.logical_and(mask, costs < params.get("high", float("inf")))
    return mask


def class_factors(labels, reducer: Reducer, dtype):
    """`(N,)` weights of the anchors' classes, for `"class_weighted"`.

    Raises:
        ValueError: on an eager call with a label that has no weight; in a compiled one the weight is nan.
    """
    weights = _split(reducer)[1]["weights"]
    values = concrete_values(labels)
    if values is not None and values.size and (values.min() < 0 or values.max() >= len(weights)):
        raise ValueError(
            f"Expected `labels` in 0 .. {len(weights) - 1}, one of the `weights` of the reducer a class. "
            f"Received: labels from {values.min()} to {values.max()}. Give `weights` one number for each class."
        )
    labels = ops.convert_to_tensor(labels)
    known = ops.logical_and(labels >= 0, labels < len(weights))
    each = ops.take(ops.convert_to_tensor(weights, dtype=dtype), ops.where(known, labels, 0), axis=0)
    return ops.where(known, each, float("nan"))  # stops the training: a class has no weight


def _split(reducer: Reducer) -> tuple[str, dict[str, Any]]:
    if isinstance(reducer, Mapping):
        params = dict(reducer)
        return params.pop("name", ""), params
    return reducer, {}
