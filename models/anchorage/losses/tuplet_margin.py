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
    """Compares the angle to each positive with the angles to all negatives; a margin relaxes the positive angle.

    Formula, for every ordered positive pair (a, p), with angles theta, negatives `N_a` of a, and the margin m:

        loss_ap = log( 1 + sum_{n in N_a} exp( scale (cos theta_an - cos(theta_ap - m)) ) )

    The paper combines it with the intra-pair variance loss (`anchorage.losses.intra_pair_variance`).

    Defaults: 0.1 rad, which pytorch-metric-learning 2.9 quotes from the paper (`docs/losses.md`, TupletMarginLoss), and
    64 of its `TupletMarginLoss`, which cites no source.

    Args:
        margin: m in degrees, in [0, 180); 5.73 is 0.1 rad.
        scale: factor on the cosines, positive.
        reducer: reduction of the per-pair losses, see `anchorage.pairs.reducers`.

    Call arguments:
        references: pairs and embeddings from a wrapper such as `MinedLoss`; None compares the batch with itself.

    Returns:
        Non-negative float32 scalar; 0 for a batch without positives or without negatives.

    Raises:
        ValueError: if an argument is out of range or shapes are incompatible.

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
        positive_logits = self.scale * cosine_of_sum(cosines, math.cos(margin), -math.sin(margin))
        negative_total = masked_logsumexp(self.scale * cosines, negatives, axis=1)[:, None]
        counted = ops.logical_and(positives, ops.any(negatives, axis=1, keepdims=True))
        costs = ops.where(counted, ops.softplus(ops.where(counted, negative_total - positive_logits, 0.0)), 0.0)
        return reduce_costs(costs, positives, self.reducer, labels)
