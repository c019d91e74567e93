"""Multi-class N-pair loss: Sohn, NeurIPS 2016, equation 6 for mc and equation 7 for one-vs-one."""

import keras
from keras import ops

from models.geometry import dot_products, masked_log1p_sum_exp, unit_rows
from models.losses._batch import check_batch, mean_where
from models.losses._reduce import Reducer, check_any_reducer, reduce_costs

LAYOUTS = ("labels", "halves", "interleaved")


@keras.saving.register_keras_serializable(package="anchorage")
class NPairLoss(keras.layers.Layer):
    """Tells the positive of each anchor from the positives of all other classes.

    With `layout="labels"`, of every class with at least two items the first in the batch is the anchor `a`, the second
    the positive `p`; other items are not used. `"halves"` has all anchors first, then their positives in the same
    order; `"interleaved"` has a1, p1, a2, p2, ... There two items with different labels are no pair and not used, nor
    is the last of an odd number. A class may have several pairs: they share the target of the softmax in equal parts,
    and are not held against each other one to one. Formula over the N pairs:

        mc:  1/N sum_i log(1 + sum_{j != i} exp(a_i.p_j - a_i.p_i))
        ovo: 1/N sum_i sum_{j != i} log(1 + exp(a_i.p_j - a_i.p_i))
        plus reg_lambda / 4 (mean |a_i|^2 + mean |p_i|^2)

    Defaults: 0.002 as in TensorFlow and PaddlePaddle; the paper's own weight could not be checked.

    Args:
        variant: `"mc"` or `"ovo"`.
        reg_lambda: weight of the squared lengths, at least 0.
        symmetric: average with the loss where anchors and positives change roles.
        normalize: bring the rows to unit length first; the paper does not.
        layout: `"labels"`, `"halves"` or `"interleaved"`: where anchors and positives stand in the batch.
        reducer: how the costs of the pairs become one, see `models.losses._reduce`.

    Call arguments:
        embeddings: `(N, D)` float tensor.
        labels: `(N,)` integer tensor of class ids.

    Returns:
        Scalar float32 tensor, at least 0; 0 where there is no pair.

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
        layout: str = "labels",
        reducer: Reducer = "mean",
        **kwargs,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        if variant not in ("mc", "ovo"):
            raise ValueError(f"`variant` must be 'mc' or 'ovo'. Received: variant={variant!r}")
        if reg_lambda < 0:
            raise ValueError(f"`reg_lambda` must not be negative. Received: reg_lambda={reg_lambda}")
        if layout not in LAYOUTS:
            raise ValueError(f"`layout` must be one of {list(LAYOUTS)}. Received: layout={layout!r}")
        self.variant = variant
        self.reg_lambda = reg_lambda
        self.symmetric = symmetric
        self.normalize = normalize
        self.layout = layout
        self.reducer = check_any_reducer(reducer)

    def call(self, embeddings, labels):
        check_batch(embeddings, labels)
        rows = unit_rows(embeddings) if self.normalize else embeddings
        labels = ops.convert_to_tensor(labels)
        same = ops.equal(labels[:, None], labels[None, :])
        target = self._targets(same)
        anchors, positives = ops.any(target, axis=1), ops.any(target, axis=0)
        scores = dot_products(rows, rows)
        loss = self._against(scores, labels, target, same, positives)
        if self.symmetric:
            loss = (loss + self._against(scores, labels, ops.transpose(target), same, anchors)) / 2.0
        lengths = ops.sum(ops.square(rows), axis=1)
        return loss + self.reg_lambda / 4.0 * (mean_where(lengths, anchors) + mean_where(lengths, positives))

    def _targets(self, same):
        """`(N, N)` bool, true where the column is the positive of the row."""
        count = ops.shape(same)[0]
        places = ops.arange(count)
        if self.layout == "labels":
            rank = ops.sum(ops.cast(ops.logical_and(same, places[None, :] < places[:, None]), "int32"), axis=1)
            return ops.logical_and(same, ops.logical_and((rank == 0)[:, None], (rank == 1)[None, :]))
        half = count // 2
        if self.layout == "interleaved":
            first, positive = places % 2 == 0, places + 1
        else:
            first, positive = places < half, places + half
        beside = ops.equal(positive[:, None], places[None, :])
        return ops.logical_and(ops.logical_and(same, beside), first[:, None])

    def _against(self, scores, labels, target, same, targets):
        """What it costs to tell the target of a row from all others, made one number over the rows that have one.

        Args:
            scores: `(N, N)` float tensor.
            labels: `(N,)` integer tensor.
            target: `(N, N)` bool, at most one true entry in a row.
            same: `(N, N)` bool, equal labels.
            targets: `(N,)` bool, the columns that are a target.
        """
        to_target = ops.sum(ops.where(target, scores, ops.zeros_like(scores)), axis=1, keepdims=True)
        gaps = scores - to_target
        own = ops.logical_and(same, targets[None, :])  # they share the mass of the target
        others = ops.logical_and(ops.logical_not(same), targets[None, :])
        if self.variant == "ovo":
            costs = ops.sum(ops.where(others, ops.softplus(gaps), ops.zeros_like(gaps)), axis=1)
        else:
            rest = ops.logical_or(others, ops.logical_and(own, ops.logical_not(target)))
            costs = masked_log1p_sum_exp(gaps, rest, axis=1) - mean_where(gaps, own, axis=1)
        return reduce_costs(costs, ops.any(target, axis=1), self.reducer, labels)

    def get_config(self):
        names = ("variant", "reg_lambda", "symmetric", "normalize", "layout", "reducer")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
