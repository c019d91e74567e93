"""Threshold-consistent margin: Zhang, Xu, Wu et al., ICLR 2024, equation 4; a regulariser beside another loss."""

import keras
from keras import ops

from anchorage.checks import check_between, check_not_negative
from anchorage.geometry import dot_products
from anchorage.losses.base import LossLayer
from anchorage.pairs.masks import mean_where
from anchorage.pairs.references import compare


@keras.saving.register_keras_serializable(package="anchorage")
class ThresholdConsistentMarginLoss(LossLayer):
    """Moves hard pairs only, towards one pair of cosine thresholds that all classes share.

    Formula, with cosines `s`, each mean over the pairs that fulfil its condition:

        lambda_plus  mean_{positives, s <= margin_plus}  (margin_plus - s)
      + lambda_minus mean_{negatives, s >= margin_minus} (s - margin_minus)

    Defaults: `ThresholdConsistentMarginLoss` of pytorch-metric-learning 2.9, which names no place.

    Args:
        lambda_plus: weight of the positives, at least 0.
        lambda_minus: weight of the negatives, at least 0.
        margin_plus: cosine that positives should exceed, in [-1, 1].
        margin_minus: cosine that negatives should stay below, in [-1, 1].

    Call arguments:
        references: what a wrapper hands over; None compares the batch with itself.

    Returns:
        Scalar float32 tensor, at least 0; 0 where no pair is hard.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

    Example:
        >>> loss = ThresholdConsistentMarginLoss()
        >>> round(float(loss(keras.ops.ones((2, 2)), keras.ops.array([0, 1]))), 4)
        0.5
    """

    takes = ("references",)

    def __init__(
        self,
        lambda_plus: float = 1.0,
        lambda_minus: float = 1.0,
        margin_plus: float = 0.9,
        margin_minus: float = 0.5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_not_negative(lambda_plus=lambda_plus, lambda_minus=lambda_minus)
        check_between(-1, 1, margin_plus=margin_plus, margin_minus=margin_minus)
        self.lambda_plus = lambda_plus
        self.lambda_minus = lambda_minus
        self.margin_plus = margin_plus
        self.margin_minus = margin_minus

    def compute(self, embeddings, labels, references=None):
        rows, columns, positives, negatives = compare(embeddings, labels, references)
        cosines = dot_products(rows, columns)
        far = ops.logical_and(positives, cosines <= self.margin_plus)
        near = ops.logical_and(negatives, cosines >= self.margin_minus)
        pull = mean_where(self.margin_plus - cosines, far)
        push = mean_where(cosines - self.margin_minus, near)
        return self.lambda_plus * pull + self.lambda_minus * push
