"""Neighbourhood components analysis: Goldberger et al., NeurIPS 2004, equations 1-4, as the logarithm of eq. 6."""

import keras
from keras import ops

from anchorage.checks import check_positive
from anchorage.geometry import find_measure, masked_logsumexp
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import Reducer, check_any_reducer, reduce_costs
from anchorage.pairs.references import compare


@keras.saving.register_keras_serializable(package="anchorage")
class NCALoss(LossLayer):
    """Makes it likely that a neighbour drawn at random is of the anchor's class.

    Formula, with Euclidean distances `d` and `P_i`, `N_i` the positives and negatives of anchor i:

        loss_i = -log( sum_{P_i} exp(-c d_ip^2) / sum_{P_i + N_i} exp(-c d_ik^2) )

    Anchors without positives drop out of the average.

    Defaults: 1, which pytorch-metric-learning 2.9 gives for the paper (`docs/losses.md`, NCALoss): its equation has no
    factor.

    Args:
        softmax_scale: c, positive.
        distance: `"squared_euclidean"` for the formula; any other name of `anchorage.geometry.MEASURES` takes the place
            of `d^2`, a similarity with the sign changed.
        reducer: how the costs of the anchors become one, see `anchorage.pairs.reducers`.
        normalize: bring the rows to unit length first; the paper learns a linear map and does not.

    Call arguments:
        references: what a wrapper hands over; None compares the batch with itself.

    Returns:
        Scalar float32 tensor, at least 0.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

    Example:
        >>> loss = NCALoss()
        >>> round(float(loss(keras.ops.ones((3, 2)), keras.ops.array([0, 0, 1]))), 4)  # log 2
        0.6931
    """

    takes = ("references",)

    def __init__(
        self,
        softmax_scale: float = 1.0,
        distance: str = "squared_euclidean",
        reducer: Reducer = "mean",
        normalize: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(softmax_scale=softmax_scale)
        self._measure = find_measure(distance)
        self.softmax_scale = softmax_scale
        self.distance = distance
        self.reducer = check_any_reducer(reducer)
        self.normalize = normalize

    def compute(self, embeddings, labels, references=None):
        rows, columns, positives, negatives = compare(embeddings, labels, references, self.normalize)
        logits = self._measure.matrix(rows, columns) * (-self._measure.sign * self.softmax_scale)
        gap = masked_logsumexp(logits, negatives, axis=1) - masked_logsumexp(logits, positives, axis=1)
        found = ops.any(positives, axis=1)
        whole = ops.logical_and(found, ops.any(negatives, axis=1))
        costs = ops.where(whole, ops.softplus(ops.where(whole, gap, 0.0)), 0.0)
        return reduce_costs(costs, found, self.reducer, labels)
