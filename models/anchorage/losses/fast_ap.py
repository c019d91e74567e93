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
    """Average precision of every item as a query, from histograms of its distances.

    Formula, with h+ and h the soft histograms of anchor i's squared distances on [0, 4] to its positives and to
    all others, H+ and H their running sums:

        loss_i = 1 - 1/|P_i| sum_q h+_q H+_q / H_q

    Anchors without positives drop out of the average.

    Defaults: 10 intervals, `matlab/get_opts.m` of the authors' code (kunhe/FastAP-metric-learning), which the paper
    suggests according to pytorch-metric-learning 2.9 (`docs/losses.md`, FastAPLoss).

    Args:
        num_bins: Q, intervals between the Q + 1 nodes of the histogram, at least 1.
        reducer: how the costs of the anchors become one, see `anchorage.pairs.reducers`.

    Call arguments:
        references: what a wrapper hands over; None compares the batch with itself.

    Returns:
        Scalar float32 tensor in [0, 1].

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

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
        found = soft_histogram(position, counted, self.num_bins, group, 2 * size)
        own, others = found[0::2], found[1::2]
        own_so_far, so_far = ops.cumsum(own, axis=1), ops.cumsum(own + others, axis=1)
        some = so_far > 0
        precision = own * ops.where(some, own_so_far / ops.where(some, so_far, 1.0), 0.0)
        number = ops.sum(ops.cast(positives, position.dtype), axis=1)
        costs = ops.relu(1.0 - ops.sum(precision, axis=1) / ops.maximum(number, 1.0))
        return reduce_costs(costs, number > 0, self.reducer, labels)
