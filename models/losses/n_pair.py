"""Multi-class N-pair loss: Sohn, NeurIPS 2016, equation 6 for mc and equation 7 for one-vs-one."""

import keras
from keras import ops

from models.geometry import dot_products, masked_log1p_sum_exp, unit_rows
from models.losses._batch import check_batch, mean_where


@keras.saving.register_keras_serializable(package="anchorage")
class NPairLoss(keras.layers.Layer):
    """Tells the positive of each anchor from the positives of all other classes.

    Of every class with at least two items the first in the batch is the anchor `a`, the second the
    positive `p`; other items are not used. Formula over the N pairs:

        mc:  1/N sum_i log(1 + sum_{j != i} exp(a_i.p_j - a_i.p_i))
        ovo: 1/N sum_i sum_{j != i} log(1 + exp(a_i.p_j - a_i.p_i))
        plus reg_lambda / 4 (mean |a_i|^2 + mean |p_i|^2)

    Args:
        variant: `"mc"` or `"ovo"`.
        reg_lambda: weight of the squared lengths, at least 0.
        symmetric: average with the loss where anchors and positives change roles.
        normalize: bring the rows to unit length first; the paper does not.

    Call arguments:
        embeddings: `(N, D)` float tensor.
        labels: `(N,)` integer tensor of class ids.

    Returns:
        Scalar float32 tensor, at least 0; 0 where no class has two items.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.
        TypeError: if `labels` are not integers.

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
        **kwargs,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        if variant not in ("mc", "ovo"):
            raise ValueError(f"`variant` must be 'mc' or 'ovo'. Received: variant={variant!r}")
        if reg_lambda < 0:
            raise ValueError(f"`reg_lambda` must not be negative. Received: reg_lambda={reg_lambda}")
        self.variant = variant
        self.reg_lambda = reg_lambda
        self.symmetric = symmetric
        self.normalize = normalize

    def call(self, embeddings, labels):
        check_batch(embeddings, labels)
        rows = unit_rows(embeddings) if self.normalize else embeddings
        labels = ops.convert_to_tensor(labels)
        same = ops.equal(labels[:, None], labels[None, :])
        columns = ops.arange(ops.shape(labels)[0])
        rank = ops.sum(ops.cast(ops.logical_and(same, columns[None, :] < columns[:, None]), "int32"), axis=1)
        size = ops.sum(ops.cast(same, "int32"), axis=1)
        anchors, positives = ops.logical_and(rank == 0, size > 1), rank == 1
        similarities = dot_products(rows, rows)
        loss = self._against(similarities, same, anchors, positives)
        if self.symmetric:
            loss = (loss + self._against(similarities, same, positives, anchors)) / 2.0
        lengths = ops.sum(ops.square(rows), axis=1)
        return loss + self.reg_lambda / 4.0 * (mean_where(lengths, anchors) + mean_where(lengths, positives))

    def _against(self, similarities, same, anchors, targets):
        own = ops.logical_and(same, targets[None, :])
        others = ops.logical_and(ops.logical_not(same), targets[None, :])
        to_own = ops.sum(ops.where(own, similarities, ops.zeros_like(similarities)), axis=1, keepdims=True)
        gaps = similarities - to_own
        if self.variant == "mc":
            return mean_where(masked_log1p_sum_exp(gaps, others, axis=1), anchors)
        each = ops.where(others, ops.softplus(gaps), ops.zeros_like(gaps))
        return mean_where(ops.sum(each, axis=1), anchors)

    def get_config(self):
        names = ("variant", "reg_lambda", "symmetric", "normalize")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
