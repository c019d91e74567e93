"""Distances and similarities between rows of embedding matrices, and log-sum-exps over masks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

_TINY = 1e-12  # floor under a squared distance: keeps the gradient of sqrt finite
_ZERO_ROW = 1e-24  # squared length below which a row counts as zero and is left as it is


def unit_rows(x):
    """Rows divided by their Euclidean length; a zero row stays zero and passes a finite gradient.

    Args:
        x: `(..., D)` float tensor.
    """
    squared = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x * ops.rsqrt(ops.where(squared > _ZERO_ROW, squared, ops.ones_like(squared)))


def ball_rows(x):
    """Rows longer than 1 brought to length 1, the others left as they are: the nearest points of the unit ball.

    Args:
        x: `(..., D)` float tensor.
    """
    squared = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x * ops.rsqrt(ops.where(squared > 1.0, squared, ops.ones_like(squared)))


def cosine_similarities(a, b):
    """Cosine of the angle between every row of `a` (N, D) and every row of `b` (M, D): `(N, M)`, in [-1, 1]."""
    return dot_products(unit_rows(a), unit_rows(b))


def dot_products(a, b):
    """Inner product of every row of `a` (N, D) and every row of `b` (M, D): `(N, M)`."""
    return ops.matmul(a, ops.transpose(b))


def squared_distances(a, b):
    """Squared Euclidean distance between every row of `a` and every row of `b`.

    Args:
        a: `(N, D)` float tensor.
        b: `(M, D)` float tensor.

    Returns:
        `(N, M)` float tensor, never below zero.
    """
    a_norms = ops.sum(ops.square(a), axis=1, keepdims=True)
    b_norms = ops.sum(ops.square(b), axis=1, keepdims=True)
    return ops.maximum(a_norms - 2.0 * dot_products(a, b) + ops.transpose(b_norms), 0.0)


def euclidean_distances(a, b):
    """Euclidean distance between rows; at distance 0 the gradient is 0, not infinite."""
    return ops.sqrt(ops.maximum(squared_distances(a, b), _TINY))


@ops.custom_gradient
def manhattan_distances(a, b):
    """Sum of the absolute differences of the coordinates of rows: `(N, M)`; equal coordinates pass no gradient.

    Goes through the coordinates one by one, there and back, so that no `(N, M, D)` tensor is ever held.
    """
    of_a, of_b = ops.transpose(a), ops.transpose(b)

    def gaps(place):
        return ops.take(of_a, place, axis=0)[:, None] - ops.take(of_b, place, axis=0)[None, :]

    def gradient(*inputs, upstream=None):
        upstream = inputs[0] if upstream is None else upstream  # PyTorch hands over `a` and `b` first

        def slopes(place):
            signed = upstream * ops.sign(gaps(place))
            return ops.sum(signed, axis=1), -ops.sum(signed, axis=0)

        return tuple(ops.transpose(slope) for slope in ops.map(slopes, ops.arange(a.shape[1])))

    total = ops.fori_loop(1, a.shape[1], lambda place, total: total + ops.abs(gaps(place)), ops.abs(gaps(0)))
    return total, gradient


def snr_distances(a, b):
    """Signal-to-noise distance `var(a_i - b_j) / var(a_i)` over coordinates; asymmetric (Yuan et al., CVPR 2019).

    Both variances are unbiased. A row of `a` with equal coordinates has no signal: its distances are 0.
    """
    a = a - ops.mean(a, axis=1, keepdims=True)
    b = b - ops.mean(b, axis=1, keepdims=True)
    signal = ops.sum(ops.square(a), axis=1, keepdims=True)
    return ops.where(signal > _TINY, squared_distances(a, b) / ops.maximum(signal, _TINY), 0.0)


class Measure(NamedTuple):
    """How near two rows are: `matrix(a, b)` is (N, M); `sign` is +1 for distances, -1 for similarities."""

    matrix: Callable[[Any, Any], Any]
    sign: int


MEASURES: dict[str, Measure] = {
    "euclidean": Measure(euclidean_distances, 1),
    "squared_euclidean": Measure(squared_distances, 1),
    "manhattan": Measure(manhattan_distances, 1),
    "snr": Measure(snr_distances, 1),
    "cosine": Measure(cosine_similarities, -1),
    "dot": Measure(dot_products, -1),
}


def find_measure(name: str) -> Measure:
    """Entry of `MEASURES`.

    Raises:
        ValueError: if the name is not known.
    """
    if name not in MEASURES:
        raise ValueError(f"`distance` must be one of {sorted(MEASURES)}. Received: distance={name!r}")
    return MEASURES[name]


def lowest(x) -> float:
    """Lowest finite number of the dtype of `x`, halved so that differences stay finite."""
    return {"float16": -3e4, "bfloat16": -1e38, "float32": -1e38}.get(keras.backend.standardize_dtype(x.dtype), -1e300)


def masked_logsumexp(x, mask, axis: int):
    """`log sum exp` over the entries in `mask`; an empty set gives 0 with zero gradient.

    Args:
        x: float tensor.
        mask: bool tensor of the shape of `x`.
        axis: axis to sum over.
    """
    floor = lowest(x)
    x = ops.where(mask, x, floor)
    top = ops.stop_gradient(ops.max(x, axis=axis, keepdims=True))
    top = ops.where(top > 0.5 * floor, top, 0.0)  # an empty set: exp(floor - 0) is 0, not exp(floor - floor) = 1
    total = ops.sum(ops.exp(x - top), axis=axis)
    none = total == 0  # not `total > 0`: that would make 0 of nan
    return ops.where(none, 0.0, ops.log(ops.where(none, 1.0, total)) + ops.squeeze(top, axis))


def masked_log1p_sum_exp(x, mask, axis: int):
    """`log(1 + sum exp)` over the entries in `mask`, never below 0; an empty set gives 0.

    Args:
        x: float tensor.
        mask: bool tensor of the shape of `x`.
        axis: axis to sum over.
    """
    x = ops.where(mask, x, lowest(x))
    top = ops.stop_gradient(ops.maximum(ops.max(x, axis=axis, keepdims=True), 0.0))
    total = ops.sum(ops.exp(x - top), axis=axis)
    top = ops.squeeze(top, axis)
    return top + ops.log1p(total + ops.expm1(-top))


def weighted_concatenation(heads, weights):
    """Heads `(N, m, d)` side by side, `(N, m * d)`, scaled so that squared distances are weighted sums of theirs."""
    scaled = heads * ops.sqrt(weights)[None, :, None]
    return ops.reshape(scaled, (-1, heads.shape[1] * heads.shape[2]))
