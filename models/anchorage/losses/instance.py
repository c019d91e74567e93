"""Instance loss: Zheng et al., ACM TOMM 2020, equation 4, with the batch in place of a classifier over all items."""

import keras
from keras import ops

from anchorage.checks import check_positive
from anchorage.geometry import dot_products, unit_rows
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import Reducer, check_any_reducer, reduce_costs


@keras.saving.register_keras_serializable(package="anchorage")
class InstanceLoss(LossLayer):
    """Tells every item of the batch from all others, whatever their classes; added to another loss.

    Formula, with cosines `s`:

        loss_i = -log( exp(gamma s_ii) / sum_k exp(gamma s_ik) )

    Every item counts as a class of its own; the labels are checked and not used. (pytorch-metric-learning takes
    the row with the number of the label for the item's own, which is the same only for labels 0 .. N - 1.) For a
    classifier over all items of a set, number the items and use `softmax` without a bias.

    Defaults: 64, `InstanceLoss` of pytorch-metric-learning 2.9, which names no place.

    Args:
        gamma: scale, positive.
        reducer: how the costs of the rows become one, see `anchorage.pairs.reducers`.

    Returns:
        Scalar float32 tensor, at least 0; 0 for a batch of one.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

    Example:
        >>> loss = InstanceLoss()
        >>> round(float(loss(keras.ops.ones((2, 2)), keras.ops.array([0, 0]))), 4)  # log 2
        0.6931
    """

    def __init__(self, gamma: float = 64.0, reducer: Reducer = "mean", **kwargs):
        super().__init__(**kwargs)
        check_positive(gamma=gamma)
        self.gamma = gamma
        self.reducer = check_any_reducer(reducer)

    def compute(self, embeddings, labels):
        rows = unit_rows(embeddings)
        own = self.gamma * ops.sum(ops.square(rows), axis=1, keepdims=True)
        # No cosine is above that with oneself: nothing overflows, and small costs keep their digits. It is taken off
        # within the product, as one more coordinate.
        gaps = dot_products(
            ops.concatenate([self.gamma * rows, -own], axis=1), ops.concatenate([rows, ops.ones_like(own)], axis=1)
        )
        others = 1.0 - ops.eye(ops.shape(rows)[0], dtype=rows.dtype)
        costs = ops.log1p(ops.sum(others * ops.exp(gaps), axis=1))
        return reduce_costs(costs, ops.ones_like(costs, dtype="bool"), self.reducer, labels)
