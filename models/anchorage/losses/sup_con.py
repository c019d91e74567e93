"""Supervised contrastive loss: Khosla et al., NeurIPS 2020, equation 2, with the sum outside the logarithm."""

import keras
from keras import ops

from anchorage.checks import check_positive
from anchorage.geometry import find_measure, masked_logsumexp
from anchorage.losses.base import LossLayer
from anchorage.pairs.masks import mean_where
from anchorage.pairs.reducers import Reducer, check_any_reducer, reduce_costs
from anchorage.pairs.references import compare


@keras.saving.register_keras_serializable(package="anchorage")
class SupConLoss(LossLayer):
    """Maximizes the softmax probability of all positives of an anchor among the other samples of the batch.

    Formula, with similarities `s`, positives `P_i` and all other samples `A_i = P_i + N_i` of anchor i:

        loss_i = -1/|P_i| sum_{p in P_i} ( s_ip / t - log sum_{k in A_i} exp(s_ik / t) )

    Anchors without positives are excluded from the reduction. The paper multiplies the loss by `t`, its code by
    `t / 0.07`; this layer does neither.

    Defaults: 0.1, which pytorch-metric-learning 2.9 quotes from the paper (`docs/losses.md`, SupConLoss); the README of
    the authors' code (HobbitLong/SupContrast) has it for CIFAR.

    Args:
        temperature: t, positive.
        distance: `"cosine"` or another name in `anchorage.geometry.MEASURES`; distances are negated.
        reducer: reduction of the per-sample losses, see `anchorage.pairs.reducers`.
        normalize: L2-normalize the embeddings first.

    Call arguments:
        references: pairs and embeddings from a wrapper such as `MinedLoss`; None compares the batch with itself.

    Returns:
        Non-negative float32 scalar; 0 for a batch without positives or without negatives.

    Raises:
        ValueError: if an argument is out of range or shapes are incompatible.

    Example:
        >>> loss = SupConLoss(temperature=1.0)
        >>> round(float(loss(keras.ops.ones((3, 2)), keras.ops.array([0, 0, 1]))), 4)  # log 2
        0.6931
    """

    takes = ("references",)

    def __init__(
        self,
        temperature: float = 0.1,
        distance: str = "cosine",
        reducer: Reducer = "avg_non_zero",
        normalize: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(temperature=temperature)
        self._measure = find_measure(distance)
        self.temperature = temperature
        self.distance = distance
        self.reducer = check_any_reducer(reducer)
        self.normalize = normalize

    def compute(self, embeddings, labels, references=None):
        rows, columns, positives, negatives = compare(embeddings, labels, references, self.normalize)
        logits = self._measure.matrix(rows, columns) * (-self._measure.sign / self.temperature)
        others = ops.logical_or(positives, negatives)
        costs = masked_logsumexp(logits, others, axis=1) - mean_where(logits, positives, axis=1)
        counted = ops.logical_and(ops.any(positives, axis=1), ops.any(negatives))
        return reduce_costs(ops.where(counted, ops.maximum(costs, 0.0), 0.0), counted, self.reducer, labels)
