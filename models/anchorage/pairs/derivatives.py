"""Differentiates a cost inside a loop through which no gradient flows."""

from typing import Any

import keras
from keras import ops


def value_and_slopes(cost, *inputs) -> tuple[tuple[Any, Any], tuple[Any, ...]]:
    """Differentiates a scalar with respect to each of its inputs.

    Args:
        cost: function of the inputs that returns a scalar, which is differentiated, and auxiliary data.
        *inputs: float tensors.

    Returns:
        The result of `cost`, and the derivatives of the scalar.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            value, beside = cost(*inputs)
        slopes = tape.gradient(value, inputs, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return (value, beside), slopes
    arguments = tuple(range(len(inputs)))
    if backend == "jax":
        import jax

        return jax.value_and_grad(cost, argnums=arguments, has_aux=True)(*inputs)
    import torch

    slopes, result = torch.func.grad_and_value(cost, argnums=arguments, has_aux=True)(*inputs)
    return result, slopes


def measure_of(cost, weights, of_anchors=()):
    """Creates the `measure` of `sum_over_positives` from a cost that the backend differentiates.

    Args:
        cost: function of `(positive, rows, ...)`: the `(P, 1)` entries at the positives, for each of `others` the
            `(P, N)` rows of the anchors, and for each of `of_anchors` their `(P, ...)` constants. It gives the costs of
            the P pairs, `(P,)`. The gradient flows through the positives and the first rows, which hold entries of the
            matrix, or infinity where nothing counts.
        weights: `(N,)` weight of the costs of each anchor.
        of_anchors: tuple of `(N, ...)` tensors of constants of the anchors.
    """

    def measure(block, rows, *more):
        weights_of_pairs = ops.where(block.present, block.take(weights), 0.0)
        constants = [block.take(x) for x in of_anchors]

        def total(positive, rows):
            return ops.sum(weights_of_pairs * cost(positive, rows, *more, *constants)), ()

        (value, _), (of_positive, of_rows) = value_and_slopes(total, block.value, rows)
        return (value,), of_rows + block.one_hot * of_positive

    return measure
