"""Intra-pair variance loss: Yu & Tao, ICCV 2019, equations 8-10; meant to be added to the tuplet margin loss."""

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
    """Brings positive cosines up to their mean, and negative cosines down to theirs.

    Formula, with cosines `s` and m+, m- their means over all positive and all negative pairs (gradients flow
    through the means), each of the two reduced on its own and the results added:

        positives: max(0, (1 - pos_eps) m+ - s_ij)^2
        negatives: max(0, s_ij - (1 + neg_eps) m-)^2

    Defaults: 0.01 and 0.01, which pytorch-metric-learning 2.9 gives for the paper (`docs/losses.md`,
    IntraPairVarianceLoss).

    Args:
        pos_eps: slack of the positives, at least 0.
        neg_eps: slack of the negatives, at least 0.
        reducer: how the costs of the pairs become one, see `anchorage.pairs.reducers`.

    Call arguments:
        references: what a wrapper hands over; None compares the batch with itself.

    Returns:
        Scalar float32 tensor, at least 0.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

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
