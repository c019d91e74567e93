"""Multi-class N-pair loss: Sohn, NeurIPS 2016, equation 6 for mc and equation 7 for one-vs-one."""

import keras
from keras import ops

from anchorage.checks import check_not_negative
from anchorage.geometry import dot_products, masked_log1p_sum_exp, unit_rows
from anchorage.losses.base import LossLayer
from anchorage.pairs.masks import mean_where, true_rows_first
from anchorage.pairs.reducers import Reducer, check_any_reducer, reduce_costs
from anchorage.pairs.walk import ClassMembers

LAYOUTS = ("labels", "halves", "interleaved")


@keras.saving.register_keras_serializable(package="anchorage")
class NPairLoss(LossLayer):
    """Tells the positive of each anchor from the positives of all other classes.

    With `layout="labels"`, of every class with at least two items the first in the batch is the anchor `a`, the second
    the positive `p`; other items are not used. `"halves"` has all anchors first, then their positives in the same
    order; `"interleaved"` has a1, p1, a2, p2, ... There two items with different labels are no pair and not used, nor
    is the last of an odd number. A class may have several pairs: they share the target of the softmax in equal parts,
    and are not held against each other one to one. Formula over the N pairs:

        mc:  1/N sum_i log(1 + sum_{j != i} exp(a_i.p_j - a_i.p_i))
        ovo: 1/N sum_i sum_{j != i} log(1 + exp(a_i.p_j - a_i.p_i))
        plus reg_lambda / 4 (mean |a_i|^2 + mean |p_i|^2)

    Defaults: 0.002 of `tf.contrib.losses.metric_learning.npairs_loss` in TensorFlow 1 and `npair_loss` in PaddlePaddle;
    the paper's own weight could not be checked.

    Args:
        variant: `"mc"` or `"ovo"`.
        reg_lambda: weight of the squared lengths, at least 0.
        symmetric: average with the loss where anchors and positives change roles.
        normalize: bring the rows to unit length first; the paper does not.
        layout: `"labels"`, `"halves"` or `"interleaved"`: where anchors and positives stand in the batch.
        reducer: how the costs of the pairs become one, see `anchorage.pairs.reducers`.

    Returns:
        Scalar float32 tensor, at least 0; 0 where there is no pair.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

    Example:
        >>> loss = NPairLoss(reg_lambda=0.0)
        >>> round(float(loss(keras.ops.ones((4, 2)), keras.ops.array([0, 0, 1, 1]))), 4)  # log 2
        0.6931
    """

    def __init__(
        self,
        variant: str = "mc",
        reg_lambda: float = 0.002,
        symmetric: bool = False,
        normalize: bool = False,
        layout: str = "labels",
        reducer: Reducer = "mean",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if variant not in ("mc", "ovo"):
            raise ValueError(f"`variant` must be 'mc' or 'ovo'. Received: variant={variant!r}")
        check_not_negative(reg_lambda=reg_lambda)
        if layout not in LAYOUTS:
            raise ValueError(f"`layout` must be one of {list(LAYOUTS)}. Received: layout={layout!r}")
        self.variant = variant
        self.reg_lambda = reg_lambda
        self.symmetric = symmetric
        self.normalize = normalize
        self.layout = layout
        self.reducer = check_any_reducer(reducer)

    def compute(self, embeddings, labels):
        rows = unit_rows(embeddings) if self.normalize else embeddings
        labels = ops.convert_to_tensor(labels)
        first, second, real = self._pairs(labels)
        few = (ops.shape(first)[0] + 1) // 2

        def over(first, second, real):
            return self._over_pairs(rows, labels, first, second, real)

        # There may be as many pairs as half of the rows; with four and more of a class there are half as many at most.
        return ops.cond(
            ops.sum(ops.cast(real, "int32")) <= few,
            lambda: over(first[:few], second[:few], real[:few]),
            lambda: over(first, second, real),
        )

    def _over_pairs(self, rows, labels, first, second, real):
        anchors, positives = (ops.take(rows, index, axis=0) for index in (first, second))
        labels = ops.take(labels, first, axis=0)
        scores = dot_products(anchors, positives)
        loss = self._against(scores, labels, real)
        if self.symmetric:
            loss = (loss + self._against(ops.transpose(scores), labels, real)) / 2.0
        lengths = ops.sum(ops.square(rows), axis=1)
        return loss + self.reg_lambda / 4.0 * sum(mean_where(ops.take(lengths, x), real) for x in (first, second))

    def _pairs(self, labels):
        """Row numbers of anchors and of their positives, and which of them are pairs: `(H,)` for (N + 1) // 2 = H."""
        count = ops.shape(labels)[0]
        places = ops.arange(count, dtype="int32")
        if self.layout == "labels":
            members = ClassMembers(labels)
            positives, some = members.partner(1)
            anchor = ops.logical_and(members.place == 0, some)
        else:
            half = ops.cast(count // 2, "int32")
            beside = self.layout == "interleaved"
            anchor = ops.logical_and(places % 2 == 0, places < 2 * half) if beside else places < half
            positives = ops.where(anchor, places + (1 if beside else half), 0)
            anchor = ops.logical_and(anchor, labels == ops.take(labels, positives, axis=0))
        first = true_rows_first(anchor, (count + 1) // 2)
        return first, ops.take(positives, first, axis=0), ops.take(anchor, first, axis=0)

    def _against(self, scores, labels, real):
        """What it costs to tell the target of a row from all others, made one number over the rows that have one.

        Args:
            scores: `(H, H)` float tensor, the targets on the diagonal.
            labels: `(H,)` integer tensor.
            real: `(H,)` bool, which rows, and columns alike, are a pair.
        """
        gaps = scores - ops.diagonal(scores)[:, None]
        same = ops.equal(labels[:, None], labels[None, :])
        own = ops.logical_and(same, real[None, :])  # they share the mass of the target
        others = ops.logical_and(ops.logical_not(same), real[None, :])
        if self.variant == "ovo":
            costs = ops.sum(ops.where(others, ops.softplus(gaps), ops.zeros_like(gaps)), axis=1)
        else:
            rest = ops.logical_and(real[None, :], ops.logical_not(ops.eye(ops.shape(gaps)[0], dtype="bool")))
            costs = masked_log1p_sum_exp(gaps, rest, axis=1) - mean_where(gaps, own, axis=1)
        return reduce_costs(costs, real, self.reducer, labels)
