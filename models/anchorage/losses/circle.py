"""Circle loss: Sun et al., CVPR 2020, equations 6-8."""

import keras
from keras import ops

from anchorage.checks import check_positive
from anchorage.geometry import dot_products, masked_logsumexp
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import Reducer, check_any_reducer, reduce_costs
from anchorage.pairs.references import compare


@keras.saving.register_keras_serializable(package="anchorage")
class CircleLoss(LossLayer):
    """Weights each pair by the distance of its similarity from the optimum.

    Formula, with cosines `s`, and `P_i`, `N_i` the positives and negatives of anchor i:

        loss_i = softplus( lse_{P_i}( -gamma a_p (s_ip - (1 - m)) ) + lse_{N_i}( gamma a_n (s_in - m) ) )
        a_p = max(0, 1 + m - s_ip),   a_n = max(0, s_in + m)        (constants: no gradient)

    with `lse` the log-sum-exp over the set. The loss of an anchor without positives or negatives is 0.

    Defaults: 0.4 and 80, which pytorch-metric-learning 2.9 quotes from the paper's fine-grained retrieval
    (`docs/losses.md`, CircleLoss; faces: 0.25 and 256).

    Args:
        m: relaxation margin, in [0, 1]: positives should exceed a cosine of 1 - m, negatives stay below m.
        gamma: scale, positive; 80 for retrieval and 256 for faces in the paper.
        reducer: reduction of the per-sample losses, see `anchorage.pairs.reducers`.

    Call arguments:
        references: pairs and embeddings from a wrapper such as `MinedLoss`; None compares the batch with itself.

    Returns:
        Non-negative float32 scalar.

    Raises:
        ValueError: if an argument is out of range or shapes are incompatible.

    Example:
        >>> loss = CircleLoss(m=0.5, gamma=2.0)  # softplus(-2 * 0.5 * 0.5 + 2 * 1.5 * 0.5)
        >>> round(float(loss(keras.ops.ones((3, 2)), keras.ops.array([0, 0, 1]))), 4)
        1.3133
    """

    takes = ("references",)

    def __init__(self, m: float = 0.4, gamma: float = 80.0, reducer: Reducer = "avg_non_zero", **kwargs):
        super().__init__(**kwargs)
        if not 0 <= m <= 1:
            raise ValueError(f"`m` must lie in [0, 1]. Received: m={m}")
        check_positive(gamma=gamma)
        self.m = m
        self.gamma = gamma
        self.reducer = check_any_reducer(reducer)

    def compute(self, embeddings, labels, references=None):
        rows, columns, positives, negatives = compare(embeddings, labels, references)
        similarities = dot_products(rows, columns)
        detached = ops.stop_gradient(similarities)
        # One matrix for both kinds of logits, as no pair is both positive and negative.
        weight = ops.where(positives, -ops.relu(1.0 + self.m - detached), ops.relu(detached + self.m))
        gap = ops.where(positives, similarities - (1.0 - self.m), similarities - self.m)
        logits = self.gamma * weight * gap
        total = masked_logsumexp(logits, positives, axis=1) + masked_logsumexp(logits, negatives, axis=1)
        has_both = ops.logical_and(ops.any(positives, axis=1), ops.any(negatives, axis=1))
        costs = ops.where(has_both, ops.softplus(total), ops.zeros_like(total))
        return reduce_costs(costs, ops.ones_like(has_both), self.reducer, labels)
