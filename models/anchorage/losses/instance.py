"""Instance loss: Zheng et al., ACM TOMM 2020, equation 4, with the batch in place of a classifier over all items."""

import keras
from keras import ops

from anchorage.checks import check_positive
from anchorage.geometry import dot_products, unit_rows
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import Reducer, check_any_reducer, reduce_costs


@keras.saving.register_keras_serializable(package="anchorage")
class InstanceLoss(LossLayer):
    """Instance discrimination within the batch, regardless of class; an addition to another loss.

    Formula, with cosines `s`:

        loss_i = -log( exp(gamma s_ii) / sum_k exp(gamma s_ik) )

    Each sample is a class of its own; labels are validated but not used. (pytorch-metric-learning uses the label as the
    index of the target, which agrees only for labels 0 .. N - 1.) For a classifier over all instances of a dataset, use
    `softmax` without a bias on instance ids.

    Defaults: 64, `InstanceLoss` of pytorch-metric-learning 2.9, which cites no source.

    Args:
        gamma: scale, positive.
        reducer: reduction of the per-sample losses, see `anchorage.pairs.reducers`.

    Returns:
        Non-negative float32 scalar; 0 for a batch of one.

    Raises:
        ValueError: if an argument is out of range or shapes are incompatible.

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
        target = self.gamma * ops.sum(ops.square(rows), axis=1, keepdims=True)
        # logits - target, which is at most 0 and so cannot overflow; as one more coordinate of the product it costs
        # no further (N, N) tensor and keeps small losses precise.
        gaps = dot_products(
            ops.concatenate([self.gamma * rows, -target], axis=1),
            ops.concatenate([rows, ops.ones_like(target)], axis=1),
        )
        others = 1.0 - ops.eye(ops.shape(rows)[0], dtype=rows.dtype)
        costs = ops.log1p(ops.sum(others * ops.exp(gaps), axis=1))
        return reduce_costs(costs, ops.ones_like(costs, dtype="bool"), self.reducer, labels)
