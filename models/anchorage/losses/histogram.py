"""Histogram loss: Ustinova & Lempitsky, NeurIPS 2016, equations 1-4."""

import keras
from keras import ops

from anchorage.checks import check_at_least_one
from anchorage.geometry import dot_products
from anchorage.losses.base import LossLayer
from anchorage.pairs.histogram import soft_histogram
from anchorage.pairs.references import compare


@keras.saving.register_keras_serializable(package="anchorage")
class HistogramLoss(LossLayer):
    """Probability that a random negative pair is more similar than a random positive pair.

    Formula, with h+ and h- the soft histograms, normalized to sum 1, of the cosines of positive and negative pairs on
    n + 1 nodes over [-1, 1]:

        loss = sum_r h-_r sum_{q <= r} h+_q

    Defaults: 100 intervals, `HistogramLoss` of pytorch-metric-learning 2.9, which cites no source.

    Args:
        n_bins: number of intervals n between the nodes, at least 1.

    Call arguments:
        references: pairs and embeddings from a wrapper such as `MinedLoss`; None compares the batch with itself.

    Returns:
        Float32 scalar in [0, 1]; 0 for a batch without positives or without negatives.

    Raises:
        ValueError: if an argument is out of range or shapes are incompatible.

    Example:
        >>> loss = HistogramLoss()
        >>> float(loss(keras.ops.ones((3, 2)), keras.ops.array([0, 0, 1])))  # all pairs equal
        1.0
    """

    takes = ("references",)

    def __init__(self, n_bins: int = 100, **kwargs):
        super().__init__(**kwargs)
        check_at_least_one(n_bins=n_bins)
        self.n_bins = n_bins

    def compute(self, embeddings, labels, references=None):
        rows, columns, positives, negatives = compare(embeddings, labels, references)
        position = (dot_products(rows, columns) + 1.0) * (self.n_bins / 2.0)
        counted = ops.cast(ops.logical_or(positives, negatives), position.dtype)
        histograms = soft_histogram(position, counted, self.n_bins, ops.cast(negatives, "int32"), 2)
        counts = ops.stop_gradient(ops.sum(histograms, axis=1, keepdims=True))
        densities = histograms / ops.maximum(counts, 1.0)
        return ops.sum(densities[1] * ops.cumsum(densities[0]))
