"""PNP: Li et al., "Rethinking the Optimization of Average Precision", AAAI 2022: penalise negatives ahead."""

from typing import Any

import keras
from keras import ops

from anchorage.checks import check_positive
from anchorage.geometry import dot_products, unit_rows
from anchorage.losses.base import LossLayer
from anchorage.pairs.masks import pair_masks
from anchorage.pairs.positives import sum_over_positives
from anchorage.pairs.steps import Step

VARIANTS = ("O", "Ds", "Dq", "Iu", "Ib")


@keras.saving.register_keras_serializable(package="anchorage")
class PNPLoss(LossLayer):
    """Counts, softly, the negatives that stand before each positive, and shapes the count.

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
        **kwargs,
    ):
        super().__init__(**kwargs)
        if variant not in VARIANTS:
            raise ValueError(f"`variant` must be one of {list(VARIANTS)}. Received: variant={variant!r}")
        check_positive(anneal=anneal, alpha=alpha, b=b)
        self.variant = variant
        self.anneal = anneal
        self.alpha = alpha
        self.b = b
        self.normalize = normalize

    def compute(self, embeddings, labels):
        rows = unit_rows(embeddings) if self.normalize else embeddings
        scores = dot_products(rows, rows)
        negatives = pair_masks(labels)[1]
        size = ops.sum(ops.cast(ops.logical_not(negatives), scores.dtype), axis=1)
        weight = 1.0 / (size * ops.cast(ops.shape(scores)[0], scores.dtype))

        step = Step(self.anneal, bounded=self.normalize)

        def measure(slot, prepared):
            sigmoid = step(prepared, slot.value)
            cost, rate = self._shape(slot.add_up(sigmoid))
            share = ops.where(slot.present, slot.take(weight), 0.0)
            slope = sigmoid * (1.0 - sigmoid) * (share * rate / self.anneal)[:, None]
            return (ops.sum(share * cost),), slope - slot.here * slot.add_up(slope)[:, None]

        others = (step.of(scores, negatives),)
        return sum_over_positives(scores, labels, measure, with_self=True, others=others)[0]

    def _shape(self, count) -> tuple[Any, Any]:
        """The function g of the variant at `count`, and its derivative."""
        if self.variant == "Ds":
            return ops.log1p(count), 1.0 / (1.0 + count)
        if self.variant == "Dq":
            return 1.0 - (1.0 + count) ** -self.alpha, self.alpha * (1.0 + count) ** (-self.alpha - 1.0)
        if self.variant == "Iu":
            return (1.0 + count) * ops.log1p(count), 1.0 + ops.log1p(count)
        if self.variant == "Ib":
            return (self.b * count - ops.log1p(self.b * count)) / self.b**2, count / (1.0 + self.b * count)
        return count, ops.ones_like(count)
