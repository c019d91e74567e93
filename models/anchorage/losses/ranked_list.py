"""Ranked list loss, the simple form: Wang, Hua, Kodirov et al., CVPR 2019 and PAMI 2021, equations 4-10."""

import keras
from keras import ops

from anchorage.checks import check_between, check_not_negative, check_positive
from anchorage.geometry import euclidean_distances
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import Reducer, check_any_reducer, reduce_costs
from anchorage.pairs.references import compare

_EPSILON = 1e-5  # added to every weight in the denominators, as in pytorch-metric-learning


@keras.saving.register_keras_serializable(package="anchorage")
class RankedListLoss(LossLayer):
    """Pulls positives within a radius of the anchor and pushes negatives beyond a larger radius.

    Formula, with distances `d`, over the positives with `d > alpha - margin` and the negatives with `d < alpha`:

        w_ip = exp(tp (d_ip - (alpha - margin))),   w_in = exp(tn (alpha - d_in))
        pull_i = sum w_ip (d_ip - (alpha - margin)) / sum (w_ip + 1e-5),   push_i = likewise with alpha - d_in
        loss_i = (1 - imbalance) pull_i + imbalance push_i

    The 1e-5 is added once for every sample of the batch.

    Defaults: imbalance, alpha and tp of `RankedListLoss` of pytorch-metric-learning 2.9, which cites no source and has
    no defaults for `margin` and `tn`: 0.4 and 10 are from later code (kanshichao/CBML, `config/defaults.py`).

    Args:
        margin: difference of the two radii, in (0, alpha).
        tn: inverse temperature of the negative weights, at least 0; 10 in the paper.
        imbalance: weight of the negatives, in [0, 1].
        alpha: desired distance of negatives; default `1 + margin / 2`.
        tp: inverse temperature of the positive weights, at least 0.
        constant_weights: stop gradients through the weights, as in the paper.
        reducer: reduction of the per-sample losses, see `anchorage.pairs.reducers`.

    Call arguments:
        references: pairs and embeddings from a wrapper such as `MinedLoss`; None compares the batch with itself.

    Returns:
        Non-negative float32 scalar.

    Raises:
        ValueError: if an argument is out of range or shapes are incompatible.

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
        alpha = 1.0 + self.margin / 2.0 if self.alpha is None else self.alpha
        pull = self._weighted_mean(distances - (alpha - self.margin), positives, self.tp)
        push = self._weighted_mean(alpha - distances, negatives, self.tn)
        costs = (1.0 - self.imbalance) * pull + self.imbalance * push
        return reduce_costs(costs, ops.ones_like(costs, dtype="bool"), self.reducer, labels)

    def _weighted_mean(self, gaps, mask, inverse_temperature):
        mask = ops.logical_and(mask, gaps > 0)
        gaps = ops.where(mask, gaps, 0.0)
        weights = ops.where(mask, ops.exp(inverse_temperature * gaps), 0.0)
        if self.constant_weights:
            weights = ops.stop_gradient(weights)
        return ops.sum(weights * gaps, axis=1) / ops.sum(weights + _EPSILON, axis=1)
