"""Quadratic penalty that keeps an encoder near reference weights.

Gürbüz, Can & Alatan, arXiv 2209.09060, and Can, Gürbüz & Alatan, ICIP 2021.
"""

from collections.abc import Sequence

import keras
from keras import ops


class WeightPenalty(keras.layers.Layer):
    """A frozen copy of the trainable weights of an encoder, saved with the method.

    Formula of the penalty, with `theta` the weights and `theta_k` their copy:

        penalty = strength/2 ||theta - theta_k||^2,      with gradient strength (theta - theta_k)

    Args:
        weights: built variables; the copy is initialized with their values.
    """

    def __init__(self, weights: Sequence[keras.Variable], **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self._theta = lambda: weights  # Keras would track an attribute as weights of this layer
        self._copies = [
            self.add_weight(
                name=f"held_{number}",
                shape=weight.shape,
                dtype=weight.dtype,
                trainable=False,
                aggregation="only_first_replica",  # equal on all replicas
            )
            for number, weight in enumerate(weights)
        ]
        self.take()
        self.built = True

    def take(self, when=True) -> None:
        """Copy the current weights if `when`, a bool or bool tensor, is true."""
        for copy, weight in zip(self._copies, self._theta(), strict=True):
            copy.assign(ops.where(when, ops.convert_to_tensor(weight), ops.convert_to_tensor(copy)))

    def take_over(self, other: "WeightPenalty") -> None:
        """Copy the reference weights of another penalty on the same encoder."""
        for copy, reference in zip(self._copies, other._copies, strict=True):
            copy.assign(reference)

    def penalty(self, strength):
        """Scalar penalty, 0 at the reference weights."""
        strength = ops.convert_to_tensor(strength, dtype=self.compute_dtype)
        squares = [
            ops.sum(ops.square(ops.cast(weight, self.compute_dtype) - ops.cast(copy, self.compute_dtype)))
            for weight, copy in zip(self._theta(), self._copies, strict=True)
        ]
        return 0.5 * strength * sum(squares, ops.zeros((), self.compute_dtype))
