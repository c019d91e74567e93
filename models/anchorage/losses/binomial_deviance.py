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
    """Logistic loss on the cosine of every pair, with a steeper slope for negatives.

    Formula, with cosines `S`, and `P_i`, `N_i` the positives and negatives of anchor i:

        loss = 1/N sum_i [ mean_{P_i} log(1 + exp(-alpha (S_ij - base))) + mean_{N_i} log(1 + exp(beta (S_ij - base))) ]

    The mean over an empty set is 0. This is the form in the loss ensemble of Zabihzadeh et al. (2023), whose code names
    `beta` alpha and `base` margin. The paper averages over all positive pairs and over all negative pairs
    (`reducer="mean"`), and writes beta as `alpha C`, with C the cost of a negative.

    Defaults: the published code of that ensemble.

    Args:
        alpha: slope of the positive term, positive.
        beta: slope of the negative term, positive.
        base: cosine threshold between positives and negatives, in [-1, 1].
        reducer: reduction of each term over its pairs, see `anchorage.pairs.reducers`.
        normalize: L2-normalize the embeddings first.

    Call arguments:
        references: pairs and embeddings from a wrapper such as `MinedLoss`; None compares the batch with itself.

    Returns:
        Non-negative float32 scalar.

    Raises:
        ValueError: if an argument is out of range or shapes are incompatible.

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
