"""Generalised lifted structured loss: Hermans, Beyer & Leibe, arXiv 1703.07737, 2017, equation 7."""

import keras
from keras import ops

from anchorage.geometry import find_measure, masked_logsumexp
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import Reducer, check_any_reducer, reduce_costs
from anchorage.pairs.references import compare


@keras.saving.register_keras_serializable(package="anchorage")
class GeneralizedLiftedStructureLoss(LossLayer):
    """Compares the soft farthest positive of an anchor with its soft nearest negative.

    Formula, with distances `d`, and `lse` the log-sum-exp over the positives `P_i` or negatives `N_i` of anchor i:

        loss_i = max(0, lse_{P_i}(d_ip - pos_margin) + lse_{N_i}(neg_margin - d_in))

    An empty set contributes 0, as in pytorch-metric-learning.

    Defaults: 1 and 0, `GeneralizedLiftedStructureLoss` of pytorch-metric-learning 2.9, whose `docs/losses.md` quotes
    margins from 0.1 to 1, and none for positives, from the paper.

    Args:
        neg_margin: desired distance of negatives.
        pos_margin: tolerated distance of positives.
        distance: `"euclidean"` or another name in `anchorage.geometry.MEASURES`; similarities and their margins are
            negated.
        reducer: reduction of the per-sample losses, see `anchorage.pairs.reducers`.
        normalize: L2-normalize the embeddings first; the paper does not.

    Call arguments:
        references: pairs and embeddings from a wrapper such as `MinedLoss`; None compares the batch with itself.

    Returns:
        Non-negative float32 scalar.

    Raises:
        ValueError: if `distance` or `reducer` is unknown or shapes are incompatible.

    Example:
        >>> loss = GeneralizedLiftedStructureLoss(reducer="avg_non_zero")
        >>> round(float(loss(keras.ops.ones((2, 2)), keras.ops.array([0, 1]))), 4)
        1.0
    """

    takes = ("references",)

    def __init__(
        self,
        neg_margin: float = 1.0,
        pos_margin: float = 0.0,
        distance: str = "euclidean",
        reducer: Reducer = "mean",
        normalize: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._measure = find_measure(distance)
        self.neg_margin = neg_margin
        self.pos_margin = pos_margin
        self.distance = distance
        self.reducer = check_any_reducer(reducer)
        self.normalize = normalize

    def compute(self, embeddings, labels, references=None):
        rows, columns, positives, negatives = compare(embeddings, labels, references, self.normalize)
        distances, sign = self._measure.matrix(rows, columns), self._measure.sign
        pull = masked_logsumexp(sign * (distances - self.pos_margin), positives, axis=1)
        push = masked_logsumexp(sign * (self.neg_margin - distances), negatives, axis=1)
        costs = ops.relu(pull + push)
        return reduce_costs(costs, ops.ones_like(costs, dtype="bool"), self.reducer, labels)
