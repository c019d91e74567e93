"""Threshold-consistent margin: Zhang, Xu, Wu et al., ICLR 2024, equation 4; a regularizer for another loss."""

import keras
from keras import ops

from anchorage.checks import check_between, check_not_negative
from anchorage.geometry import dot_products
from anchorage.losses.base import LossLayer
from anchorage.pairs.masks import mean_where
from anchorage.pairs.references import compare


@keras.saving.register_keras_serializable(package="anchorage")
class ThresholdConsistentMarginLoss(LossLayer):
    """Moves hard pairs towards two cosine thresholds shared by all classes.

    Formula, with cosines `s` and each mean over the pairs that satisfy its condition:

        lambda_plus  mean_{positives, s <= margin_plus}  (margin_plus - s)
      + lambda_minus mean_{negatives, s >= margin_minus} (s - margin_minus)

    Defaults: `ThresholdConsistentMarginLoss` of pytorch-metric-learning 2.9, which cites no source.

    Args:
        lambda_plus: weight of the positive term, at least 0.
        lambda_minus: weight of the negative term, at least 0.
        margin_plus: cosine that positives should exceed, in [-1, 1].
        margin_minus: cosine that negatives should stay below, in [-1, 1].

    Call arguments:
        references: pairs and embeddings from a wrapper such as `MinedLoss`; None compares the batch with itself.

    Returns:
        Non-negative float32 scalar; 0 if no pair is hard.

    Raises:
        ValueError: if an argument is out of range or shapes are incompatible.

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
        hard_positives = ops.logical_and(positives, cosines <= self.margin_plus)
        hard_negatives = ops.logical_and(negatives, cosines >= self.margin_minus)
        pull = mean_where(self.margin_plus - cosines, hard_positives)
        push = mean_where(cosines - self.margin_minus, hard_negatives)
        return self.lambda_plus * pull + self.lambda_minus * push
