"""Lifted structured loss: Oh Song et al., CVPR 2016, equation 4, the smooth upper bound."""

import keras
from keras import ops

from anchorage.geometry import find_measure, lowest, masked_logsumexp
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import ANCHOR_REDUCERS, Reducer, check_any_reducer, reduce_costs
from anchorage.pairs.references import compare

_BLOCK = 512  # references compared with all references at a time


@keras.saving.register_keras_serializable(package="anchorage")
class LiftedStructureLoss(LossLayer):
    """Compares every positive pair with all negatives of both its samples.

    Formula, for every ordered positive pair (a, p), with distances `d`:

        loss_ap = 1/2 max(0, d_ap - pos_margin + log( sum_{n in N_a} exp(neg_margin - d_an)
                                                    + sum_{n in N_p} exp(neg_margin - d_pn) ))^2

    With a memory, p and all negatives come from the memory; the negatives of p are all its entries of another class,
    even if a miner drops some. This compares the memory with itself.

    Defaults: 1 and 0, which pytorch-metric-learning 2.9 quotes from the paper (`docs/losses.md`, LiftedStructureLoss).

    Args:
        neg_margin: desired distance of negatives.
        pos_margin: tolerated distance of positives.
        distance: `"euclidean"` or another name in `anchorage.geometry.MEASURES`; similarities and their margins are
            negated.
        reducer: reduction of the per-pair losses, see `anchorage.pairs.reducers`.
        normalize: L2-normalize the embeddings first; the paper does not.

    Call arguments:
        references: pairs and embeddings from a wrapper such as `MinedLoss`; None compares the batch with itself.

    Returns:
        Non-negative float32 scalar; 0 for a batch without positives or without negatives.

    Raises:
        ValueError: if `distance` or `reducer` is unknown or shapes are incompatible.

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
        of_anchor, anchor_valid = self._negative_term(distances, negatives)
        if columns is rows:
            of_positive, positive_valid = of_anchor, anchor_valid
        else:
            of_positive, positive_valid = self._reference_terms(ops.stop_gradient(columns), references)
        total = _log_add(of_anchor[:, None], anchor_valid[:, None], of_positive[None, :], positive_valid[None, :])
        has_negatives = ops.logical_or(anchor_valid[:, None], positive_valid[None, :])
        gap = total + distances - self._measure.sign * self.pos_margin
        costs = 0.5 * ops.square(ops.relu(ops.where(ops.logical_and(has_negatives, positives), gap, 0.0)))
        return reduce_costs(costs, positives, self.reducer, labels)

    def _distances(self, rows, columns):
        return self._measure.sign * self._measure.matrix(rows, columns)

    def _negative_term(self, distances, negatives):
        """Log-sum-exp of `neg_margin - d` over the negatives of each row, and whether the row has any."""
        logits = self._measure.sign * self.neg_margin - distances
        return masked_logsumexp(logits, negatives, axis=1), ops.any(negatives, axis=1)

    def _reference_terms(self, columns, references):
        """The negative terms of the references among themselves, in blocks, as a memory can be much larger."""
        labels = ops.convert_to_tensor(references.labels)
        present = ops.ones_like(labels, dtype="bool") if references.present is None else references.present
        count = columns.shape[0]
        size = count if count is None else min(count, _BLOCK)
        if count is None or count == size:
            negatives = ops.logical_and(labels[:, None] != labels[None, :], present[None, :])
            return self._negative_term(self._distances(columns, columns), negatives)
        starts = ops.minimum(ops.arange(-(-count // size), dtype="int32") * size, count - size)

        def block(start):
            rows = ops.slice(columns, (start, 0), (size, columns.shape[1]))
            negatives = ops.slice(labels, (start,), (size,))[:, None] != labels[None, :]
            return self._negative_term(self._distances(rows, columns), ops.logical_and(negatives, present[None, :]))

        terms, valid = ops.map(block, starts)
        # The last block overlaps its predecessor: skip the rows they share.
        index = ops.arange(count, dtype="int32")
        number = index // size
        index = number * size + index - ops.take(starts, number, axis=0)
        return ops.take(ops.reshape(terms, (-1,)), index, axis=0), ops.take(ops.reshape(valid, (-1,)), index, axis=0)


def _log_add(x, x_valid, y, y_valid):
    """`log(e^x + e^y)` over the valid terms."""
    low = lowest(x)
    largest = ops.stop_gradient(ops.maximum(ops.where(x_valid, x, low), ops.where(y_valid, y, low)))
    total = ops.where(x_valid, ops.exp(x - largest), 0.0) + ops.where(y_valid, ops.exp(y - largest), 0.0)
    return ops.log(ops.where(total > 0, total, 1.0)) + largest
