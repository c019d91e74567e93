"""Ranked list loss, the simple form: Wang, Hua, Kodirov et al., CVPR 2019 and PAMI 2021, equations 4-10."""

import keras
from keras import ops

from anchorage.checks import check_between, check_not_negative, check_positive
from anchorage.geometry import euclidean_distances
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import Reducer, check_any_reducer, reduce_costs
from anchorage.pairs.references import compare

_FLOOR = 1e-5  # added to every weight in the denominators, as in the reference


@keras.saving.register_keras_serializable(package="anchorage")
class RankedListLoss(LossLayer):
    """Gathers the positives of an anchor in a ball and keeps its negatives outside a larger one.

    Formula, with distances `d`, over the positives with `d > alpha - margin` and the negatives with `d < alpha`:

        w_ip = exp(tp (d_ip - (alpha - margin))),   w_in = exp(tn (alpha - d_in))
        pull_i = sum w_ip (d_ip - (alpha - margin)) / sum (w_ip + 1e-5),   push_i = likewise with alpha - d_in
        loss_i = (1 - imbalance) pull_i + imbalance push_i

    The 1e-5 is counted once for every item of the batch.

    Defaults: imbalance, alpha and tp of `RankedListLoss` of pytorch-metric-learning 2.9, which names no place and
    leaves `margin` and `tn` open: those are 0.4 and 10 of a later code (kanshichao/CBML, `config/defaults.py`).

    Args:
        margin: width between the two balls, in (0, alpha).
        tn: how much nearer negatives weigh more, at least 0; the paper has 10.
        imbalance: share of the negatives, in [0, 1].
        alpha: distance that negatives should keep; default `1 + margin / 2`.
        tp: how much farther positives weigh more, at least 0.
        constant_weights: no gradient through the weights, as in the paper.
        reducer: how the costs of the anchors become one, see `anchorage.pairs.reducers`.

    Call arguments:
        references: what a wrapper hands over; None compares the batch with itself.

    Returns:
        Scalar float32 tensor, at least 0.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

    Example:
        >>> loss = RankedListLoss(margin=0.4, alpha=1.2)  # half of 1.2 for each of two negatives
        >>> round(float(loss(keras.ops.ones((2, 2)), keras.ops.array([0, 1]))), 3)
        0.6
    """

    takes = ("references",)

    def __init__(
        self,
        margin: float = 0.4,
        tn: float = 10.0,
        imbalance: float = 0.5,
        alpha: float | None = None,
        tp: float = 0.0,
        constant_weights: bool = False,
        reducer: Reducer = "mean",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(margin=margin)
        check_not_negative(tn=tn, tp=tp)
        check_between(0, 1, imbalance=imbalance)
        if alpha is not None and alpha <= margin:
            raise ValueError(f"`alpha` must be above `margin`. Received: alpha={alpha}, margin={margin}")
        self.margin = margin
        self.tn = tn
        self.imbalance = imbalance
        self.alpha = alpha
        self.tp = tp
        self.constant_weights = constant_weights
        self.reducer = check_any_reducer(reducer)

    def compute(self, embeddings, labels, references=None):
        rows, columns, positives, negatives = compare(embeddings, labels, references)
        distances = euclidean_distances(rows, columns)
        outer = 1.0 + self.margin / 2.0 if self.alpha is None else self.alpha
        pull = self._weighted(distances - (outer - self.margin), positives, self.tp)
        push = self._weighted(outer - distances, negatives, self.tn)
        costs = (1.0 - self.imbalance) * pull + self.imbalance * push
        return reduce_costs(costs, ops.ones_like(costs, dtype="bool"), self.reducer, labels)

    def _weighted(self, gaps, mask, sharpness):
        mask = ops.logical_and(mask, gaps > 0)
        gaps = ops.where(mask, gaps, 0.0)
        weights = ops.where(mask, ops.exp(sharpness * gaps), 0.0)
        if self.constant_weights:
            weights = ops.stop_gradient(weights)
        return ops.sum(weights * gaps, axis=1) / ops.sum(weights + _FLOOR, axis=1)
