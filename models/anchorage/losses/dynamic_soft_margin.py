"""Dynamic soft margin: Zhang & Rusinkiewicz, ICCV 2019, equations 5-8."""

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_between
from anchorage.geometry import euclidean_distances, unit_rows
from anchorage.losses.base import LossLayer
from anchorage.pairs.gaps import GapNodes
from anchorage.pairs.masks import pair_masks
from anchorage.pairs.positives import POSITIVES_PER_STEP, sum_over_positives
from anchorage.pairs.walk import PositivesWalk, repeat_rows, sum_rows

_LARGEST = 2.0  # distance of two unit rows


@keras.saving.register_keras_serializable(package="anchorage")
class DynamicSoftMarginLoss(LossLayer):
    """Weighs every triplet by the share of triplets that are easier than it, over the last batches.

    Formula, over all triplets (a, p, n) of the batch, with Euclidean distances of unit rows:

        gap = d_ap - d_an
        loss = mean F(gap) gap

    F is the distribution function of the gaps: running sums of a moving histogram with `num_bins` intervals over
    `[min_val, -min_val]`, read at the node below the gap. Every gap is shared by the two nodes it lies between. The
    histogram counts as a constant, and is saved with the layer. The loss can be negative. (pytorch-metric-learning
    adds the batch's counts, not its shares, to the old shares: there a large batch all but replaces the histogram.)

    Memory grows with the square of the batch, never with its cube.

    Defaults: `DynamicSoftMarginLoss` of pytorch-metric-learning 2.9; the authors' `modules/dynamic_soft_margin.py` has
    momentum 0.01 too, but 512 intervals.

    Args:
        min_val: least gap, below 0; -2 for unit rows.
        num_bins: intervals of the histogram, at least 1; the paper has 512.
        momentum: share of the batch in the moving histogram, in [0, 1]; the first batch makes up all of it.

    Call arguments:
        training: `False` leaves the histogram as it is.

    Returns:
        Scalar float32 tensor; 0 for a batch without triplets.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

    Example:
        >>> loss = DynamicSoftMarginLoss(num_bins=2)  # nodes -2, 0, 2
        >>> rows = keras.ops.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # both gaps are -sqrt(2): F is 1 / sqrt(2)
        >>> round(float(loss(rows, keras.ops.array([0, 0, 1]))), 4)
        -1.0
    """

    takes = ("training",)

    def __init__(self, min_val: float = -2.0, num_bins: int = 10, momentum: float = 0.01, **kwargs):
        super().__init__(**kwargs)
        if min_val >= 0:
            raise ValueError(f"`min_val` must be negative. Received: min_val={min_val}")
        check_at_least_one(num_bins=num_bins)
        check_between(0, 1, momentum=momentum)
        self.min_val = min_val
        self.num_bins = num_bins
        self.momentum = momentum
        self._per_interval = num_bins / (-2.0 * min_val)
        self._nodes = GapNodes(num_bins, _LARGEST * self._per_interval)

    def build(self, embeddings_shape, labels_shape):
        self.histogram = self.add_weight(
            name="histogram", shape=(self.num_bins + 1,), initializer="zeros", trainable=False
        )

    def compute(self, embeddings, labels, training=None):
        rows = unit_rows(embeddings)
        distances = euclidean_distances(rows, rows)
        negatives = pair_masks(labels)[1]
        intervals = ops.stop_gradient(distances) * self._per_interval
        others = (self._nodes.prepare(intervals, negatives),)
        counts = self._count(PositivesWalk(intervals, labels, others=others), negatives)
        histogram = self._blend(counts)
        if training is not False:
            self.histogram.assign(histogram)
        share_below = ops.cumsum(histogram)

        def measure(block, rows):
            # F is a constant, so that the loss is linear in the distances and F is its derivative.
            weights = self._nodes.read(block, self._place(block.value * self._per_interval), rows, share_below)
            return (0.0,), block.one_hot * sum_rows(weights)[:, None] - weights

        total = sum_over_positives(distances, labels, measure, others=others, linear=True, signed=True)[0]
        return total / ops.maximum(ops.sum(counts), 1.0)

    def _place(self, intervals):
        """Position of a gap, in bin widths, among the nodes."""
        return intervals + 0.5 * self.num_bins

    def _count(self, walk, negatives):
        """Histogram of the gaps of this batch, from a walk over distances in bin widths."""
        number = ops.sum(ops.cast(negatives, walk.fixed.dtype), axis=1)

        def count_rows(anchors_of_block):
            anchors = walk.at(anchors_of_block)
            rows = repeat_rows(anchors.rows[0], POSITIVES_PER_STEP)

            def step(shift, counts):
                block = anchors.positive_block(shift, POSITIVES_PER_STEP)
                more = self._nodes.count(block, self._place(block.value), rows, block.take(number))
                return shift + POSITIVES_PER_STEP, counts + more

            return anchors.through(step, ops.zeros((self.num_bins + 1,), dtype=walk.fixed.dtype))[0]

        return ops.sum(ops.map(count_rows, walk.blocks(POSITIVES_PER_STEP)), axis=0)

    def _blend(self, counts):
        previous = ops.convert_to_tensor(self.histogram)
        number = ops.sum(counts)
        fresh = counts / ops.maximum(number, 1.0)
        known = ops.cast(ops.sum(previous) > 0, previous.dtype)
        share = 1.0 + known * (self.momentum - 1.0)
        share = share * ops.cast(number > 0, previous.dtype)  # a batch without triplets changes nothing
        return ops.stop_gradient((1.0 - share) * previous + share * fresh)
