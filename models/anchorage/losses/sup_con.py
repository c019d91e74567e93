"""Supervised contrastive loss: Khosla et al., NeurIPS 2020, equation 2, the sum outside the logarithm."""

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
    """Makes all positives of an anchor likely under one softmax over the rest of the batch.

    Formula, with similarities `s`, positives `P_i` and all others `A_i = P_i + N_i` of anchor i:

        loss_i = -1/|P_i| sum_{p in P_i} ( s_ip / t - log sum_{k in A_i} exp(s_ik / t) )

    Anchors without positives drop out of the average. The paper multiplies by `t`, its published code by
    `t / 0.07`; neither is done here.

    Defaults: 0.1, which pytorch-metric-learning 2.9 gives for the paper (`docs/losses.md`, SupConLoss); the README of
    the authors' code (HobbitLong/SupContrast) has it for CIFAR.

    Args:
        temperature: t, positive.
        distance: `"cosine"`, or any other name of `anchorage.geometry.MEASURES`; a distance counts as a
            negative similarity.
        reducer: how the costs of the anchors become one, see `anchorage.pairs.reducers`.
        normalize: bring the rows to unit length first.

    Call arguments:
        references: what a wrapper hands over; None compares the batch with itself.

    Returns:
        Scalar float32 tensor, at least 0; 0 for a batch without positives or without negatives.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

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
