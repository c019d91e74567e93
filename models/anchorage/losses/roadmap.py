"""ROADMAP: Ramzi et al., NeurIPS 2021: smooth average precision with an upper bound (SupAP) and a calibration term."""

import math
from types import MappingProxyType

import keras
from keras import ops

from anchorage.checks import check_not_negative, check_positive
from anchorage.geometry import dot_products
from anchorage.losses.base import LossLayer
from anchorage.pairs.positives import sum_over_positives
from anchorage.pairs.reducers import reduce_costs
from anchorage.pairs.references import compare
from anchorage.pairs.walk import sum_rows

_STEEPEST = 50.0  # beyond which a sigmoid is 1 to the last digit


@keras.saving.register_keras_serializable(package="anchorage")
class RoadmapLoss(LossLayer):
    """Smooth surrogate of one minus the average precision, plus absolute thresholds on the scores.

    Formula, with cosines `s`, positives `P_q` and negatives of query q, `u = s_qj - s_qi`:

        H-(u) = sigma(u / tau) for u <= 0, start + sigma(u / tau) up to delta, rho (u - delta) + offset beyond
        rank+(i) = number of j in P_q with s_qj >= s_qi,    rank-(i) = sum over negatives j of H-(u)
        SupAP = 1 - mean_q mean_{i in P_q} rank+(i) / (rank+(i) + rank-(i)),   gradient through rank- only
        calibration = mean_{positive pairs} max(0, alpha - s) + mean_{negative pairs} max(0, s - beta)
        loss = w_ap SupAP + w_cal calibration

    The defaults are those of the published code. The paper's form has `published_code=False, offset=None,
    reduction="all", w_ap=0.5, w_cal=0.5`: there a query is none of its own positives, and a negative with the score of
    the positive is ahead of it, `H-(0) = start + 1/2`, where the published code has `H-(0) = 1/2`. With a computed
    offset and `start=0.5` SupAP is never below one minus the true average precision, but for ties in the published
    code; with the published offset it can be, a little.

    Inside `cross_batch_memory` the items of the memory are ranked; the published training adds that to the loss within
    the batch, which there is `batch_weight=1.0`.

    Defaults: `roadmap/config/loss/roadmap.yaml` of the published code (elias-ramzi/ROADMAP), for SOP, CUB and In-Shop.

    Args:
        tau: width of the sigmoid, positive.
        rho: slope beyond delta, at least 0.
        delta: gap where the straight part begins, positive.
        start: lift of the step right of 0, at least 0.
        offset: height where the straight part begins; None joins it to the sigmoid.
        alpha: positives should have at least this cosine.
        beta: negatives should have at most this cosine, below `alpha`.
        w_ap: weight of SupAP, at least 0.
        w_cal: weight of the calibration, at least 0.
        reduction: `"active"` averages the calibration over pairs with a cost, `"all"` over all.
        normalize: bring the rows to unit length first.
        published_code: count the query among its own positives and ties as half wrong, as the published code does.

    Call arguments:
        labels: `(N,)` integer tensor of class ids; classes may differ in size.
        references: from a wrapper; None compares the batch with itself. Positives are then those of
            the wrapper, without the query itself.

    Returns:
        Scalar float32 tensor, at least 0.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

    Example:
        >>> loss = RoadmapLoss(w_cal=0.0)
        >>> round(float(loss(keras.ops.eye(2), keras.ops.array([0, 1]))), 4)  # each finds itself first
        0.0
    """

    takes = ("references",)
    _removed = MappingProxyType({"ties_ahead": False, "exclude_self": False})
    _replaced = (({"ties_ahead": True, "exclude_self": True}, {"published_code": False}),)

    def __init__(
        self,
        tau: float = 0.01,
        rho: float = 100.0,
        delta: float = 0.05,
        start: float = 0.5,
        offset: float | None = 1.44,
        alpha: float = 0.9,
        beta: float = 0.6,
        w_ap: float = 1.0,
        w_cal: float = 1.0,
        reduction: str = "active",
        normalize: bool = True,
        published_code: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(tau=tau, delta=delta)
        check_not_negative(rho=rho, start=start, w_ap=w_ap, w_cal=w_cal)
        if alpha <= beta:
            raise ValueError(f"`alpha` must be above `beta`. Received: alpha={alpha}, beta={beta}")
        if reduction not in ("active", "all"):
            raise ValueError(f"`reduction` must be 'active' or 'all'. Received: reduction={reduction!r}")
        self.tau = tau
        self.rho = rho
        self.delta = delta
        self.start = start
        self.offset = offset
        self.alpha = alpha
        self.beta = beta
        self.w_ap = w_ap
        self.w_cal = w_cal
        self.reduction = reduction
        self.normalize = normalize
        self.published_code = published_code

    def compute(self, embeddings, labels, references=None):
        rows, columns, positives, negatives = compare(embeddings, labels, references, self.normalize)
        similarities = dot_products(rows, columns)
        loss = 0.0
        if self.w_ap:
            if references is None:
                mine = ops.logical_not(negatives) if self.published_code else positives
                sup_ap = self._sup_ap(similarities, labels, mine, negatives)
            else:
                sup_ap = self.sup_ap(similarities, positives, negatives)
            loss = loss + self.w_ap * sup_ap
        if self.w_cal:
            loss = loss + self.w_cal * self._calibration(similarities, positives, negatives)
        return loss

    def sup_ap(self, scores, positives, negatives):
        """SupAP of given scores; relevance may be anything, such as a shared super-class, not only equal labels.

        Args:
            scores: `(Q, M)` float tensor, one row a query.
            positives: `(Q, M)` bool, what is relevant for the query.
            negatives: `(Q, M)` bool, what is not; in neither mask is what does not count.

        Returns:
            Scalar in [0, 1); the mean is over queries that have positives, 0 without such.
        """
        return self._sup_ap(scores, None, positives, negatives)

    def _sup_ap(self, similarities, labels, mine, negatives):
        count = ops.sum(ops.cast(mine, similarities.dtype), axis=1)
        queries = ops.cast(count > 0, similarities.dtype)
        share = queries / (ops.maximum(count, 1.0) * ops.maximum(ops.sum(queries), 1.0))

        def measure(block, others, own):
            # Differentiated by hand: with the backend's derivative of the three pieces a step takes 1.6 to 2.4 times
            # the CPU time (three paired runs; XLA, 2,048 rows, 21 of a class).
            height, slope = self._negative_step(others - block.value)
            ahead = sum_rows(ops.cast(own >= block.value, own.dtype))  # rank+, which counts the positive itself
            wrong = sum_rows(height)  # rank-
            rank = ops.maximum(ahead + wrong, 1.0)
            weight = ops.where(block.present, block.take(share), 0.0)
            slopes = slope * (weight * ahead / ops.square(rank))[:, None]
            return (ops.sum(weight * wrong / rank),), slopes - block.one_hot * sum_rows(slopes)[:, None]

        # Looping over classes is faster than over a mask.
        where = {"with_self": self.published_code} if labels is not None else {"positives": mine}
        others = tuple(ops.where(mask, similarities, float("-inf")) for mask in (negatives, mine))
        return sum_over_positives(similarities, labels, measure, others=others, **where)[0]

    def _negative_step(self, gaps):
        """The step `H-` of score gaps and its derivative."""
        offset = self.offset
        if offset is None:
            offset = self.start + 1.0 / (1.0 + math.exp(-min(self.delta / self.tau, _STEEPEST)))
        sigmoid = ops.sigmoid(gaps / self.tau)
        ahead = ops.cast(gaps > 0 if self.published_code else gaps >= 0, gaps.dtype)
        far = gaps > self.delta
        height = ops.where(far, self.rho * (gaps - self.delta) + offset, sigmoid + self.start * ahead)
        return height, ops.where(far, self.rho * ops.ones_like(gaps), sigmoid * (1.0 - sigmoid) / self.tau)

    def _calibration(self, similarities, positives, negatives):
        reducer = "avg_non_zero" if self.reduction == "active" else "mean"
        low = reduce_costs(ops.relu(self.alpha - similarities), positives, reducer)
        return low + reduce_costs(ops.relu(similarities - self.beta), negatives, reducer)
