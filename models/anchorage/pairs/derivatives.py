"""Differentiates a cost on the spot, where the loop around it runs outside the gradient."""

from typing import Any

import keras
from keras import ops


def value_and_slopes(cost, positive, rows) -> tuple[Any, tuple[Any, Any]]:
    """Differentiates `cost(positive, rows)`, a scalar, with respect to both arguments.

    Args:
        cost: function of two tensors.
        positive: float tensor.
        rows: float tensor.

    Returns:
        The scalar, and its two derivatives.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([positive, rows])
            value = cost(positive, rows)
        return value, tape.gradient(value, (positive, rows), unconnected_gradients=tf.UnconnectedGradients.ZERO)
    if backend == "jax":
        import jax

        return jax.value_and_grad(cost, argnums=(0, 1))(positive, rows)
    import torch

    slopes, value = torch.func.grad_and_value(cost, argnums=(0, 1))(positive, rows)
    return value, slopes


def measure_of(cost, shares):
    """Makes the `measure` of `sum_over_positives` out of a plain cost, differentiated by the backend.

    Args:
        cost: function of `(positive, rows, ...)`: the `(P, 1)` entries at the positives and, for each of `others`, the
            `(P, N)` rows of the anchors. It gives the costs of the P pairs, `(P,)`. The gradient flows through the
            positives and the first rows, which hold entries of the matrix, or infinity where nothing counts.
        shares: `(N,)` weight of the costs of each anchor.
    """

    def measure(block, rows, *more):
        weights = ops.where(block.present, block.take(shares), 0.0)

        def total(positive, rows):
            return ops.sum(weights * cost(positive, rows, *more))

        value, (of_positive, of_rows) = value_and_slopes(total, block.value, rows)
        return (value,), of_rows + block.one_hot * of_positive

    return measure
