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
    """Pulls each pair harder the further its similarity is from where it should be.

    Formula, with cosines `s`, positives `P_i` and negatives `N_i` of anchor i:

        loss_i = softplus( lse_{P_i}( -gamma a_p (s_ip - (1 - m)) ) + lse_{N_i}( gamma a_n (s_in - m) ) )
        a_p = max(0, 1 + m - s_ip),   a_n = max(0, s_in + m)        (constants: no gradient)

    with `lse` the log-sum-exp over the set. An anchor that lacks positives or negatives costs 0.

    Defaults: 0.4 and 80, which pytorch-metric-learning 2.9 gives for the paper's fine-grained retrieval
    (`docs/losses.md`, CircleLoss; faces: 0.25 and 256).

    Args:
        m: relaxation, in [0, 1]: positives aim at a cosine of 1 - m, negatives at m.
        gamma: scale, positive; the paper has 80 for retrieval and 256 for faces.
        reducer: how the costs of the anchors become one, see `anchorage.pairs.reducers`.

    Call arguments:
        references: what a wrapper hands over; None compares the batch with itself.

    Returns:
        Scalar float32 tensor, at least 0.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

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
        fixed = ops.stop_gradient(similarities)
        # One matrix holds both kinds of logits: a pair is positive or negative, never both.
        weight = ops.where(positives, -ops.relu(1.0 + self.m - fixed), ops.relu(fixed + self.m))
        gap = ops.where(positives, similarities - (1.0 - self.m), similarities - self.m)
        logits = self.gamma * weight * gap
        total = masked_logsumexp(logits, positives, axis=1) + masked_logsumexp(logits, negatives, axis=1)
        whole = ops.logical_and(ops.any(positives, axis=1), ops.any(negatives, axis=1))
        costs = ops.where(whole, ops.softplus(total), ops.zeros_like(total))
        return reduce_costs(costs, ops.ones_like(whole), self.reducer, labels)
