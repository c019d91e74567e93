"""Intra-pair variance loss: Yu & Tao, ICCV 2019, equations 8-10; an addition to the tuplet margin loss."""

import keras
from keras import ops

from anchorage.checks import check_not_negative
from anchorage.geometry import dot_products
from anchorage.losses.base import LossLayer
from anchorage.pairs.masks import mean_where
from anchorage.pairs.reducers import ANCHOR_REDUCERS, Reducer, check_any_reducer, reduce_costs
from anchorage.pairs.references import compare


@keras.saving.register_keras_serializable(package="anchorage")
class IntraPairVarianceLoss(LossLayer):
    """Reduces the variance of the cosines among positive pairs and among negative pairs.

    Formula, with cosines `s`, and m+, m- their means over all positive and all negative pairs (gradients flow through
    the means); each set of pairs is reduced separately and the two results are added:

        positives: max(0, (1 - pos_eps) m+ - s_ij)^2
        negatives: max(0, s_ij - (1 + neg_eps) m-)^2

    Defaults: 0.01 and 0.01, which pytorch-metric-learning 2.9 quotes from the paper (`docs/losses.md`,
    IntraPairVarianceLoss).

    Args:
        pos_eps: tolerance for positives, at least 0.
        neg_eps: tolerance for negatives, at least 0.
        reducer: reduction of the per-pair losses, see `anchorage.pairs.reducers`.

    Call arguments:
        references: pairs and embeddings from a wrapper such as `MinedLoss`; None compares the batch with itself.

    Returns:
        Non-negative float32 scalar.

    Raises:
        ValueError: if an argument is out of range or shapes are incompatible.

    Example:
        >>> loss = IntraPairVarianceLoss(neg_eps=0.5)  # negatives: cosines 0 and 1, mean 0.5
        >>> rows = keras.ops.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> float(loss(rows, keras.ops.array([0, 0, 1])))  # (1 - 0.75)^2 / 2
        0.03125
    """

    takes = ("references",)

    def __init__(self, pos_eps: float = 0.01, neg_eps: float = 0.01, reducer: Reducer = "mean", **kwargs):
        super().__init__(**kwargs)
        check_not_negative(pos_eps=pos_eps, neg_eps=neg_eps)
        self.pos_eps = pos_eps
        self.neg_eps = neg_eps
        self.reducer = check_any_reducer(reducer, ANCHOR_REDUCERS)

    def compute(self, embeddings, labels, references=None):
        rows, columns, positives, negatives = compare(embeddings, labels, references)
        cosines = dot_products(rows, columns)
        pull = ops.square(ops.relu((1.0 - self.pos_eps) * mean_where(cosines, positives) - cosines))
        push = ops.square(ops.relu(cosines - (1.0 + self.neg_eps) * mean_where(cosines, negatives)))
        return reduce_costs(pull, positives, self.reducer, labels) + reduce_costs(push, negatives, self.reducer, labels)
