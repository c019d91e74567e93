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
    """Classifies the positive of each anchor among the positives of all classes.

    Formula over N pairs of an anchor `a_i` and a positive `p_i` from different classes:

        mc:  1/N sum_i log(1 + sum_{j != i} exp(a_i.p_j - a_i.p_i))
        ovo: 1/N sum_i sum_{j != i} log(1 + exp(a_i.p_j - a_i.p_i))
        plus reg_lambda / 4 (mean |a_i|^2 + mean |p_i|^2)

    With `layout="labels"`, the first sample of each class in the batch is the anchor and the second the positive; other
    samples are ignored. `"halves"` expects all anchors, then their positives in the same order; `"interleaved"` expects
    a1, p1, a2, p2, ...; both ignore pairs with different labels and the last of an odd number of samples. If they give
    a class several pairs, these share the softmax target equally in mc and are not negatives of each other in ovo.

    Defaults: 0.002 of `tf.contrib.losses.metric_learning.npairs_loss` in TensorFlow 1 and `npair_loss` in PaddlePaddle;
    we could not check the paper's weight.

    Args:
        variant: `"mc"` (multi-class) or `"ovo"` (one-vs-one).
        reg_lambda: weight of the squared norms, at least 0.
        symmetric: average with the loss whose anchors and positives are swapped.
        normalize: L2-normalize the embeddings first; the paper does not.
        layout: order of anchors and positives in the batch: `"labels"`, `"halves"` or `"interleaved"`.
        reducer: reduction of the per-pair losses, see `anchorage.pairs.reducers`.

    Returns:
        Non-negative float32 scalar; 0 without a pair.

    Raises:
        ValueError: if an argument is out of range or shapes are incompatible.

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
        anchors, positives, valid = self._pairs(labels)
        half = (ops.shape(anchors)[0] + 1) // 2

        def over(anchors, positives, valid):
            return self._over_pairs(rows, labels, anchors, positives, valid)

        # Half of the padded pairs suffice in most batches: any with at least four samples per class.
        return ops.cond(
            ops.sum(ops.cast(valid, "int32")) <= half,
            lambda: over(anchors[:half], positives[:half], valid[:half]),
            lambda: over(anchors, positives, valid),
        )

    def _over_pairs(self, rows, labels, anchors, positives, valid):
        labels = ops.take(labels, anchors, axis=0)
        scores = dot_products(ops.take(rows, anchors, axis=0), ops.take(rows, positives, axis=0))
        loss = self._cross_entropy(scores, labels, valid)
        if self.symmetric:
            loss = (loss + self._cross_entropy(ops.transpose(scores), labels, valid)) / 2.0
        norms = ops.sum(ops.square(rows), axis=1)
        return loss + self.reg_lambda / 4.0 * sum(mean_where(ops.take(norms, x), valid) for x in (anchors, positives))

    def _pairs(self, labels):
        """Indices of anchors and positives, padded to `(N + 1) // 2`, and a mask of the valid pairs."""
        count = ops.shape(labels)[0]
        index = ops.arange(count, dtype="int32")
        if self.layout == "labels":
            members = ClassMembers(labels)
            positives, has_positive = members.partner(1)
            is_anchor = ops.logical_and(members.place == 0, has_positive)
        else:
            half = ops.cast(count // 2, "int32")
            interleaved = self.layout == "interleaved"
            is_anchor = ops.logical_and(index % 2 == 0, index < 2 * half) if interleaved else index < half
            positives = ops.where(is_anchor, index + (1 if interleaved else half), 0)
            is_anchor = ops.logical_and(is_anchor, labels == ops.take(labels, positives, axis=0))
        anchors = true_rows_first(is_anchor, (count + 1) // 2)
        return anchors, ops.take(positives, anchors, axis=0), ops.take(is_anchor, anchors, axis=0)

    def _cross_entropy(self, scores, labels, valid):
        """Multi-class or one-vs-one cross-entropy, reduced over the valid rows.

        Args:
            scores: `(H, H)` float tensor, the targets on the diagonal.
            labels: `(H,)` integer tensor.
            valid: `(H,)` bool mask of the valid pairs, for rows and columns.
        """
        gaps = scores - ops.diagonal(scores)[:, None]
        same = ops.equal(labels[:, None], labels[None, :])
        if self.variant == "ovo":
            negatives = ops.logical_and(ops.logical_not(same), valid[None, :])
            costs = ops.sum(ops.where(negatives, ops.softplus(gaps), ops.zeros_like(gaps)), axis=1)
        else:
            targets = ops.logical_and(same, valid[None, :])  # these share the probability mass
            others = ops.logical_and(valid[None, :], ops.logical_not(ops.eye(ops.shape(gaps)[0], dtype="bool")))
            costs = masked_log1p_sum_exp(gaps, others, axis=1) - mean_where(gaps, targets, axis=1)
        return reduce_costs(costs, valid, self.reducer, labels)
