"""Distances and similarities between rows of matrices, and masked log-sum-exp."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

_TINY = 1e-12  # lower bound of a squared distance: keeps the gradient of sqrt finite
_ZERO_ROW = 1e-24  # squared norm below which a row counts as zero and is not normalized


def unit_rows(x):
    """Normalize rows to unit length; a zero row stays zero, with a finite gradient.

    Args:
        x: `(..., D)` float tensor.
    """
    squared = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x * ops.rsqrt(ops.where(squared > _ZERO_ROW, squared, ops.ones_like(squared)))


def ball_rows(x):
    """Project rows onto the unit ball: rows longer than 1 are scaled to length 1, the others are unchanged.

    Args:
        x: `(..., D)` float tensor.
    """
    squared = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x * ops.rsqrt(ops.where(squared > 1.0, squared, ops.ones_like(squared)))


def cosine_similarities(a, b):
    """Compute the cosine similarity of every row of `a` (N, D) and every row of `b` (M, D): `(N, M)`, in [-1, 1]."""
    return dot_products(unit_rows(a), unit_rows(b))


def dot_products(a, b):
    """Compute the inner product of every row of `a` (N, D) and every row of `b` (M, D): `(N, M)`."""
    return ops.matmul(a, ops.transpose(b))


def squared_distances(a, b):
    """Compute the squared Euclidean distance between every row of `a` and every row of `b`.

    Args:
        a: `(N, D)` float tensor.
        b: `(M, D)` float tensor.

    Returns:
        `(N, M)` float tensor, not negative.
    """
    a_norms = ops.sum(ops.square(a), axis=1, keepdims=True)
    b_norms = ops.sum(ops.square(b), axis=1, keepdims=True)
    return ops.maximum(a_norms - 2.0 * dot_products(a, b) + ops.transpose(b_norms), 0.0)


def euclidean_distances(a, b):
    """Compute the Euclidean distance between rows; at distance 0 the gradient is 0, not infinite."""
    return ops.sqrt(ops.maximum(squared_distances(a, b), _TINY))


@ops.custom_gradient
def manhattan_distances(a, b):
    """Compute the L1 distance between rows: `(N, M)`; equal coordinates have zero gradient.

    Loops over the coordinates, forward and backward, so that no `(N, M, D)` tensor is allocated.
    """
    columns_a, columns_b = ops.transpose(a), ops.transpose(b)

    def differences(column):
        return ops.take(columns_a, column, axis=0)[:, None] - ops.take(columns_b, column, axis=0)[None, :]

    def gradient(*inputs, upstream=None):
        upstream = inputs[0] if upstream is None else upstream  # PyTorch passes `a` and `b` first

        def column_gradients(column):
            signed = upstream * ops.sign(differences(column))
            return ops.sum(signed, axis=1), -ops.sum(signed, axis=0)

        return tuple(ops.transpose(each) for each in ops.map(column_gradients, ops.arange(a.shape[1])))

    def add_column(column, total):
        return total + ops.abs(differences(column))

    return ops.fori_loop(1, a.shape[1], add_column, ops.abs(differences(0))), gradient


def snr_distances(a, b):
    """Compute the signal-to-noise distance `var(a_i - b_j) / var(a_i)` (Yuan et al., CVPR 2019); it is asymmetric.

    Variances are over coordinates, and unbiased. A row of `a` with equal coordinates has distance 0.
    """
    a = a - ops.mean(a, axis=1, keepdims=True)
    b = b - ops.mean(b, axis=1, keepdims=True)
    signal = ops.sum(ops.square(a), axis=1, keepdims=True)
    return ops.where(signal > _TINY, squared_distances(a, b) / ops.maximum(signal, _TINY), 0.0)


class Measure(NamedTuple):
    """A distance or similarity: `matrix(a, b)` is (N, M); `sign` is +1 for distances, -1 for similarities."""

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
    """Return the entry of `MEASURES` with this name.

    Raises:
        ValueError: if there is none.
    """
    if name not in MEASURES:
        raise ValueError(f"`distance` must be one of {sorted(MEASURES)}. Received: distance={name!r}")
    return MEASURES[name]


def lowest(x) -> float:
    """Return a very low finite number in the dtype of `x`; differences from it do not overflow."""
    return {"float16": -3e4, "bfloat16": -1e38, "float32": -1e38}.get(keras.backend.standardize_dtype(x.dtype), -1e300)


def masked_logsumexp(x, mask, axis: int):
    """Compute `log sum exp` over the entries in `mask`; an empty mask gives 0 with zero gradient.

    Args:
        x: float tensor.
        mask: bool tensor of the shape of `x`.
        axis: axis to sum over.
    """
    floor = lowest(x)
    x = ops.where(mask, x, floor)
    top = ops.stop_gradient(ops.max(x, axis=axis, keepdims=True))
    top = ops.where(top > 0.5 * floor, top, 0.0)  # for an empty mask exp(floor - 0) is 0, not exp(floor - floor) = 1
    total = ops.sum(ops.exp(x - top), axis=axis)
    empty = total == 0  # not `total > 0`, which would turn NaN into 0
    return ops.where(empty, 0.0, ops.log(ops.where(empty, 1.0, total)) + ops.squeeze(top, axis))


def masked_log1p_sum_exp(x, mask, axis: int):
    """Compute `log(1 + sum exp)` over the entries in `mask`, at least 0; an empty mask gives 0.

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
    """Concatenate heads `(N, m, d)` to `(N, m * d)`, scaled so that squared distances are weighted sums over heads."""
    scaled = heads * ops.sqrt(weights)[None, :, None]
    return ops.reshape(scaled, (-1, heads.shape[1] * heads.shape[2]))
