"""PNP: Li et al., "Rethinking the Optimization of Average Precision", AAAI 2022: penalise negatives ahead."""

import keras
from keras import ops

from anchorage.checks import check_positive
from anchorage.geometry import dot_products, unit_rows
from anchorage.losses.base import LossLayer
from anchorage.pairs.derivatives import measure_of
from anchorage.pairs.masks import pair_masks
from anchorage.pairs.positives import sum_over_positives

VARIANTS = ("O", "Ds", "Dq", "Iu", "Ib")
AVERAGES = ("all", "with_positives")


@keras.saving.register_keras_serializable(package="anchorage")
class PNPLoss(LossLayer):
    """Penalizes the soft count of negatives ranked before each positive.

    Formula, with cosines `s` and `P_i` the class of i, i among them:

        R_ij = sum_{negatives k of i} sigma((s_ik - s_ij) / anneal)
        loss = mean_i mean_{j in P_i} g(R_ij)

    with g by variant: `"O"`: R; `"Ds"`: log(1 + R); `"Dq"`: 1 - (1 + R)^-alpha; `"Iu"`: (1 + R) log(1 + R);
    `"Ib"`: (b R - log(1 + b R)) / b^2.

    Defaults: `parameters.py` of the authors' code (interestingzhuo/PNPloss), as `PNPLoss` of pytorch-metric-learning
    2.9; the authors' best run is Dq with alpha 4 (their README), the paper's alpha is 8 (its `docs/losses.md`).

    Args:
        variant: see above.
        anneal: width of the sigmoid, positive.
        alpha: power in `"Dq"`, positive.
        b: constant in `"Ib"`, positive.
        normalize: bring the rows to unit length first.
        average: `"all"` takes the mean over all items; `"with_positives"` over those that have another of their class,
            0 if none has.

    Returns:
        Scalar float32 tensor, at least 0.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

    Example:
        >>> loss = PNPLoss()
        >>> float(loss(keras.ops.ones((2, 2)), keras.ops.array([0, 1])))  # a tie counts half
        0.5
    """

    def __init__(
        self,
        variant: str = "O",
        anneal: float = 0.01,
        alpha: float = 1.0,
        b: float = 2.0,
        normalize: bool = True,
        average: str = "all",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if variant not in VARIANTS:
            raise ValueError(f"`variant` must be one of {list(VARIANTS)}. Received: variant={variant!r}")
        if average not in AVERAGES:
            raise ValueError(f"`average` must be one of {list(AVERAGES)}. Received: average={average!r}")
        check_positive(anneal=anneal, alpha=alpha, b=b)
        self.variant = variant
        self.anneal = anneal
        self.alpha = alpha
        self.b = b
        self.normalize = normalize
        self.average = average

    def compute(self, embeddings, labels):
        rows = unit_rows(embeddings) if self.normalize else embeddings
        scores = dot_products(rows, rows)
        negatives = pair_masks(labels)[1]
        size = ops.sum(ops.cast(ops.logical_not(negatives), scores.dtype), axis=1)
        if self.average == "all":
            weight = 1.0 / (size * ops.cast(ops.shape(scores)[0], scores.dtype))
        else:
            some = ops.cast(size > 1, scores.dtype)  # the item itself is one of its class
            weight = some / (size * ops.maximum(ops.sum(some), 1.0))

        def cost(positive, scores):
            return self._shape(ops.sum(ops.sigmoid((scores - positive) / self.anneal), axis=1))

        others = (ops.where(negatives, scores, float("-inf")),)
        return sum_over_positives(scores, labels, measure_of(cost, weight), with_self=True, others=others)[0]

    def _shape(self, count):
        """The function g of the variant at `count`."""
        if self.variant == "Ds":
            return ops.log1p(count)
        if self.variant == "Dq":
            return 1.0 - (1.0 + count) ** -self.alpha
        if self.variant == "Iu":
            return (1.0 + count) * ops.log1p(count)
        if self.variant == "Ib":
            return (self.b * count - ops.log1p(self.b * count)) / self.b**2
        return count
