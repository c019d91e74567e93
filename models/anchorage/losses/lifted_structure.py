"""Lifted structured loss: Oh Song et al., CVPR 2016, equation 4, the smooth upper bound."""

import keras
from keras import ops

from anchorage.geometry import find_measure, lowest, masked_logsumexp
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import ANCHOR_REDUCERS, Reducer, check_any_reducer, reduce_costs
from anchorage.pairs.references import compare

_BLOCK = 512  # references compared with all others at a time


@keras.saving.register_keras_serializable(package="anchorage")
class LiftedStructureLoss(LossLayer):
    """Holds every positive pair against all negatives of both its items.

    Formula, for every ordered positive pair (a, p), with distances `d`:

        loss_ap = 1/2 max(0, d_ap - pos_margin + log( sum_{n in N_a} exp(neg_margin - d_an)
                                                    + sum_{n in N_p} exp(neg_margin - d_pn) ))^2

    Against a memory, p and all negatives come from it: its items of another class are the negatives of p, whatever a
    miner keeps. They cost a comparison of the memory with itself.

    Defaults: 1 and 0, which pytorch-metric-learning 2.9 gives for the paper (`docs/losses.md`, LiftedStructureLoss).

    Args:
        neg_margin: distance that negatives should keep.
        pos_margin: distance that positives may have.
        distance: `"euclidean"`, or any other name of `anchorage.geometry.MEASURES`; similarities and the margins for
            them are taken with the sign changed.
        reducer: how the costs of the pairs become one, see `anchorage.pairs.reducers`.
        normalize: bring the rows to unit length first; the paper does not.

    Call arguments:
        references: what a wrapper hands over; None compares the batch with itself.

    Returns:
        Scalar float32 tensor, at least 0; 0 for a batch without positives or without negatives.

    Raises:
        ValueError: on an unknown `distance` or `reducer`, or shapes that do not fit together.

    Example:
        >>> loss = LiftedStructureLoss()  # 1/2 (1 + log 2)^2
        >>> round(float(loss(keras.ops.ones((3, 2)), keras.ops.array([0, 0, 1]))), 4)
        1.4334
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
        self.reducer = check_any_reducer(reducer, ANCHOR_REDUCERS)
        self.normalize = normalize

    def compute(self, embeddings, labels, references=None):
        rows, columns, positives, negatives = compare(embeddings, labels, references, self.normalize)
        distances = self._distances(rows, columns)
        against, some = self._against(distances, negatives)
        if columns is rows:
            theirs, have = against, some
        else:
            theirs, have = self._against_references(ops.stop_gradient(columns), references)
        total = _log_add(against[:, None], some[:, None], theirs[None, :], have[None, :])
        whole = ops.logical_or(some[:, None], have[None, :])
        gap = total + distances - self._measure.sign * self.pos_margin
        costs = 0.5 * ops.square(ops.relu(ops.where(ops.logical_and(whole, positives), gap, 0.0)))
        return reduce_costs(costs, positives, self.reducer, labels)

    def _distances(self, rows, columns):
        return self._measure.sign * self._measure.matrix(rows, columns)

    def _against(self, distances, negatives):
        """Log-sum-exp over the negatives of each row, and whether it has any."""
        logits = self._measure.sign * self.neg_margin - distances
        return masked_logsumexp(logits, negatives, axis=1), ops.any(negatives, axis=1)

    def _against_references(self, columns, references):
        """The same for the references among themselves, block by block: there can be many more than anchors."""
        labels = ops.convert_to_tensor(references.labels)
        present = ops.ones_like(labels, dtype="bool") if references.present is None else references.present
        count = columns.shape[0]
        size = count if count is None else min(count, _BLOCK)
        if count is None or count == size:
            others = ops.logical_and(labels[:, None] != labels[None, :], present[None, :])
            return self._against(self._distances(columns, columns), others)
        starts = ops.minimum(ops.arange(-(-count // size), dtype="int32") * size, count - size)

        def block(start):
            own = ops.slice(columns, (start, 0), (size, columns.shape[1]))
            other = ops.slice(labels, (start,), (size,))[:, None] != labels[None, :]
            return self._against(self._distances(own, columns), ops.logical_and(other, present[None, :]))

        values, have = ops.map(block, starts)
        # The last block overlaps the one before it: of every row the first answer.
        place = ops.arange(count, dtype="int32")
        number = place // size
        place = number * size + place - ops.take(starts, number, axis=0)
        return ops.take(ops.reshape(values, (-1,)), place, axis=0), ops.take(ops.reshape(have, (-1,)), place, axis=0)


def _log_add(x, has_x, y, has_y):
    """`log(e^x + e^y)` over those that there are."""
    low = lowest(x)
    top = ops.stop_gradient(ops.maximum(ops.where(has_x, x, low), ops.where(has_y, y, low)))
    total = ops.where(has_x, ops.exp(x - top), 0.0) + ops.where(has_y, ops.exp(y - top), 0.0)
    return ops.log(ops.where(total > 0, total, 1.0)) + top
