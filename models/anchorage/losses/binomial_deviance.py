"""Binomial deviance: Yi, Lei, Liao & Li, ICPR 2014, arXiv 1407.4979."""

import keras
from keras import ops

from anchorage.checks import check_between, check_positive
from anchorage.geometry import dot_products
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import PAIR_REDUCERS, Reducer, check_any_reducer, reduce_costs
from anchorage.pairs.references import compare


@keras.saving.register_keras_serializable(package="anchorage")
class BinomialDevianceLoss(LossLayer):
    """A logistic cost on the cosine of every pair, sharper for negatives than for positives.

    Formula, with cosines `S`, positives `P_i` and negatives `N_i` of anchor i:

        loss = 1/N sum_i [ mean_{P_i} log(1 + exp(-alpha (S_ij - base))) + mean_{N_i} log(1 + exp(beta (S_ij - base))) ]

    The mean over an empty set is 0. That is the form of the ensemble of losses by Zabihzadeh et al. (2023), whose code
    calls `beta` alpha and `base` margin. The paper takes the means over all positive and over all negative pairs,
    `reducer="mean"`, and writes beta as `alpha C`, with C the cost of a negative.

    Defaults: those of the published code of that ensemble.

    Args:
        alpha: sharpness on positives, positive.
        beta: sharpness on negatives, positive.
        base: cosine that positives should exceed and negatives stay below, in [-1, 1].
        reducer: how the costs of the positives, and those of the negatives, become one, see `anchorage.pairs.reducers`.
        normalize: bring the rows to unit length first.

    Call arguments:
        references: what a wrapper hands over; None compares the batch with itself.

    Returns:
        Scalar float32 tensor, at least 0.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

    Example:
        >>> loss = BinomialDevianceLoss(base=1.0)
        >>> round(float(loss(keras.ops.ones((2, 2)), keras.ops.array([0, 0]))), 4)  # log 2
        0.6931
    """

    takes = ("references",)

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 25.0,
        base: float = 0.5,
        reducer: Reducer = "per_anchor",
        normalize: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(alpha=alpha, beta=beta)
        check_between(-1, 1, base=base)
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.reducer = check_any_reducer(reducer, PAIR_REDUCERS)
        self.normalize = normalize

    def compute(self, embeddings, labels, references=None):
        rows, columns, positives, negatives = compare(embeddings, labels, references, self.normalize)
        similarities = dot_products(rows, columns)
        pull = ops.softplus(self.alpha * (self.base - similarities))
        push = ops.softplus(self.beta * (similarities - self.base))
        return reduce_costs(pull, positives, self.reducer, labels) + reduce_costs(push, negatives, self.reducer, labels)
