"""Holding an encoder near the weights that it had: the quadratic penalty of papers 01 and 02."""

from collections.abc import Sequence

import keras
from keras import ops


class WeightPenalty(keras.layers.Layer):
    """A copy of an encoder's trainable weights, saved with the method and never trained.

    Formula of the penalty, with `theta` the weights and `theta_k` their copy:

        penalty = strength/2 ||theta - theta_k||^2,      its gradient: strength (theta - theta_k)

    Args:
        weights: the weights, built; the copy starts with their values.
    """

    def __init__(self, weights: Sequence[keras.Variable], **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self._theta = lambda: weights  # Keras would take what it finds in an attribute for the layer's own weights
        self._copies = [
            self.add_weight(
                name=f"held_{number}",
                shape=weight.shape,
                dtype=weight.dtype,
                trainable=False,
                aggregation="only_first_replica",  # all replicas hold the same
            )
            for number, weight in enumerate(weights)
        ]
        self.take()
        self.built = True

    def take(self, when=True) -> None:
        """Copy the weights as they are now, if `when`, a bool that may be a tensor."""
        for copy, weight in zip(self._copies, self._theta(), strict=True):
            copy.assign(ops.where(when, ops.convert_to_tensor(weight), ops.convert_to_tensor(copy)))

    def take_over(self, other: "WeightPenalty") -> None:
        """Copy what another layer holds of the same weights."""
        for copy, held in zip(self._copies, other._copies, strict=True):
            copy.assign(held)

    def penalty(self, strength):
        """Scalar: 0 where the weights are the held ones."""
        strength = ops.convert_to_tensor(strength, dtype=self.compute_dtype)
        squares = [
            ops.sum(ops.square(ops.cast(weight, self.compute_dtype) - ops.cast(copy, self.compute_dtype)))
            for weight, copy in zip(self._theta(), self._copies, strict=True)
        ]
        return 0.5 * strength * sum(squares, ops.zeros((), self.compute_dtype))
