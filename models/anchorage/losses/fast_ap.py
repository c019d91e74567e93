"""FastAP: Cakir, He, Xia, Kulis & Sclaroff, CVPR 2019, equations 7-9."""

import keras
from keras import ops

from anchorage.checks import check_at_least_one
from anchorage.geometry import squared_distances
from anchorage.losses.base import LossLayer
from anchorage.pairs.histogram import soft_histogram
from anchorage.pairs.reducers import Reducer, check_any_reducer, reduce_costs
from anchorage.pairs.references import compare


@keras.saving.register_keras_serializable(package="anchorage")
class FastAPLoss(LossLayer):
    """Average precision of every anchor as a query, approximated by histograms of its distances.

    Formula, with h+ and h the soft histograms of the squared distances, in [0, 4], from anchor i to its positives and
    to all other samples, and H+ and H their cumulative sums:

        loss_i = 1 - 1/|P_i| sum_q h+_q H+_q / H_q

    Anchors without positives are excluded from the reduction.

    Defaults: 10 intervals, `matlab/get_opts.m` of the authors' code (kunhe/FastAP-metric-learning), which the paper
    suggests according to pytorch-metric-learning 2.9 (`docs/losses.md`, FastAPLoss).

    Args:
        num_bins: number of intervals Q between the Q + 1 histogram nodes, at least 1.
        reducer: reduction of the per-sample losses, see `anchorage.pairs.reducers`.

    Call arguments:
        references: pairs and embeddings from a wrapper such as `MinedLoss`; None compares the batch with itself.

    Returns:
        Float32 scalar in [0, 1].

    Raises:
        ValueError: if an argument is out of range or shapes are incompatible.

    Example:
        >>> loss = FastAPLoss()
        >>> round(float(loss(keras.ops.ones((3, 2)), keras.ops.array([0, 0, 1]))), 4)
        0.5
    """

    takes = ("references",)

    def __init__(self, num_bins: int = 10, reducer: Reducer = "mean", **kwargs):
        super().__init__(**kwargs)
        check_at_least_one(num_bins=num_bins)
        self.num_bins = num_bins
        self.reducer = check_any_reducer(reducer)

    def compute(self, embeddings, labels, references=None):
        rows, columns, positives, negatives = compare(embeddings, labels, references)
        position = squared_distances(rows, columns) * (self.num_bins / 4.0)
        counted = ops.cast(ops.logical_or(positives, negatives), position.dtype)
        size = ops.shape(rows)[0]
        group = 2 * ops.arange(size, dtype="int32")[:, None] + ops.cast(negatives, "int32")
        histograms = soft_histogram(position, counted, self.num_bins, group, 2 * size)
        h_positive, h_negative = histograms[0::2], histograms[1::2]
        cumulative_positive, cumulative = ops.cumsum(h_positive, axis=1), ops.cumsum(h_positive + h_negative, axis=1)
        nonzero = cumulative > 0
        precision = ops.where(nonzero, cumulative_positive / ops.where(nonzero, cumulative, 1.0), 0.0)
        count = ops.sum(ops.cast(positives, position.dtype), axis=1)
        costs = ops.relu(1.0 - ops.sum(h_positive * precision, axis=1) / ops.maximum(count, 1.0))
        return reduce_costs(costs, count > 0, self.reducer, labels)
