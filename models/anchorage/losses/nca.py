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
    """Maximizes the probability that a stochastic nearest neighbor has the class of the anchor.

    Formula, with Euclidean distances `d` and `P_i`, `N_i` the positives and negatives of anchor i:

        loss_i = -log( sum_{P_i} exp(-c d_ip^2) / sum_{P_i + N_i} exp(-c d_ik^2) )

    Anchors without positives are excluded from the reduction.

    Defaults: 1, which pytorch-metric-learning 2.9 quotes from the paper (`docs/losses.md`, NCALoss), whose equation has
    no factor.

    Args:
        softmax_scale: c, positive.
        distance: measure in place of `d^2`, a name in `anchorage.geometry.MEASURES`; similarities are negated.
        reducer: reduction of the per-sample losses, see `anchorage.pairs.reducers`.
        normalize: L2-normalize the embeddings first; the paper learns a linear map and does not.

    Call arguments:
        references: pairs and embeddings from a wrapper such as `MinedLoss`; None compares the batch with itself.

    Returns:
        Non-negative float32 scalar.

    Raises:
        ValueError: if an argument is out of range or shapes are incompatible.

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
        counted = ops.any(positives, axis=1)
        has_both = ops.logical_and(counted, ops.any(negatives, axis=1))
        costs = ops.where(has_both, ops.softplus(ops.where(has_both, gap, 0.0)), 0.0)
        return reduce_costs(costs, counted, self.reducer, labels)
