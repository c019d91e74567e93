"""Tuplet margin loss: Yu & Tao, ICCV 2019, equation 4."""

import math

import keras
from keras import ops

from anchorage.checks import check_positive
from anchorage.geometry import dot_products, masked_logsumexp
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import ANCHOR_REDUCERS, Reducer, check_any_reducer, reduce_costs
from anchorage.pairs.references import compare
from anchorage.proxies.margin_softmax import cosine_of_sum


@keras.saving.register_keras_serializable(package="anchorage")
class TupletMarginLoss(LossLayer):
    """Wants the angle to each positive, less a margin, to be smaller than the angles to all negatives.

    Formula, for every ordered positive pair (a, p), with theta the angles and m the margin:

        loss_ap = log( 1 + sum_{n in N_a} exp( scale (cos theta_an - cos(theta_ap - m)) ) )

    The paper adds the intra-pair variance loss (`anchorage.losses.intra_pair_variance`).

    Defaults: 0.1 rad, which pytorch-metric-learning 2.9 gives for the paper (`docs/losses.md`, TupletMarginLoss), and
    64 of its `TupletMarginLoss`, which names no place.

    Args:
        margin: m in degrees, in [0, 180); 5.73 is 0.1 rad.
        scale: length of the embeddings, positive.
        reducer: how the costs of the pairs become one, see `anchorage.pairs.reducers`.

    Call arguments:
        references: what a wrapper hands over; None compares the batch with itself.

    Returns:
        Scalar float32 tensor, at least 0; 0 for a batch without positives or without negatives.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

    Example:
        >>> loss = TupletMarginLoss(margin=0.0)
        >>> round(float(loss(keras.ops.ones((3, 2)), keras.ops.array([0, 0, 1]))), 4)  # log 2
        0.6931
    """

    takes = ("references",)

    def __init__(self, margin: float = 5.73, scale: float = 64.0, reducer: Reducer = "mean", **kwargs):
        super().__init__(**kwargs)
        if not 0 <= margin < 180:
            raise ValueError(f"`margin` must lie in [0, 180), in degrees. Received: margin={margin}")
        check_positive(scale=scale)
        self.margin = margin
        self.scale = scale
        self.reducer = check_any_reducer(reducer, ANCHOR_REDUCERS)

    def compute(self, embeddings, labels, references=None):
        rows, columns, positives, negatives = compare(embeddings, labels, references)
        cosines = dot_products(rows, columns)
        margin = math.radians(self.margin)
        wanted = self.scale * cosine_of_sum(cosines, math.cos(margin), -math.sin(margin))
        against = masked_logsumexp(self.scale * cosines, negatives, axis=1)[:, None]
        counted = ops.logical_and(positives, ops.any(negatives, axis=1, keepdims=True))
        costs = ops.where(counted, ops.softplus(ops.where(counted, against - wanted, 0.0)), 0.0)
        return reduce_costs(costs, positives, self.reducer, labels)
