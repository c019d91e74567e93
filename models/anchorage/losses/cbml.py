"""Contrastive Bayesian loss with metric variance constraint: Kan et al., TPAMI 2022, equations 28 to 30."""

from types import MappingProxyType

import keras
from keras import ops

from anchorage.checks import check_not_negative, check_positive
from anchorage.geometry import dot_products, masked_log1p_sum_exp
from anchorage.losses.base import LossLayer
from anchorage.mining.rules import mine_pairs
from anchorage.pairs.masks import mean_where
from anchorage.pairs.references import compare

_IDENTICAL = 1e-5  # positives nearer than this to cosine 1 are left out
_LARGEST_EXPONENT = 80.0  # exp of more leaves float32


@keras.saving.register_keras_serializable(package="anchorage")
class CBMLLoss(LossLayer):
    """Negative log posterior of the labels of mined pairs, plus a constraint on the variance of the negatives.

    Formula, with `S` the cosines and sums over the mined pairs of anchor i:

        e+ = sum exp(-(S_ij - pos_a) / pos_b),    e- = sum exp((S_ij - neg_a) / neg_b)
        "log":   log(1 + e+) + log(1 + e-)
        "sqrt":  sqrt(1 + e+) + sqrt(1 + e-)
        "const": (1 + weight_p e+) + (1 + weight_n e-)
        plus weight * sum_{all negatives} (S_ij - mu_i)^2
        with mu_i = hyper_weight * mean positive + (1 - hyper_weight) * mean negative

    summed over the anchors with mined pairs of both kinds, divided by the batch size. The constraint is a sum over
    negatives, so `weight` depends on the batch size. The formulas are those of the published code, as the paper's text
    was not open to us.

    Defaults: `cbml_benchmark/config/defaults.py` of the published code (kanshichao/CBML); its configurations for CUB
    have hyper_weight 0.2.

    Args:
        pos_a: cosine at which a positive costs log 2.
        pos_b: width of the positive term, positive.
        neg_a: cosine at which a negative costs log 2.
        neg_b: width of the negative term, positive.
        margin: slack of the mining, at least 0.
        weight: weight of the variance constraint, at least 0.
        hyper_weight: share of the positives in the center `mu`, in [0, 1]; 0.2 for CUB.
        weight_p: for `"const"`.
        weight_n: for `"const"`.
        type: `"log"`, `"sqrt"` or `"const"`; `"none"` computes the variance constraint only, to be added to another
            loss with `HybridLoss` or `EnsembleLoss`.
        top_neg: take this many negatives of highest cosine instead of mining them.
        normalize: normalize the embeddings first.

    Call arguments:
        references: pairs chosen by a wrapper; None compares the batch with itself.

    Returns:
        Scalar float32 tensor, at least 0; 0 if no anchor has mined pairs of both kinds.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

    Example:
        >>> loss = CBMLLoss()
        >>> float(loss(keras.ops.eye(3), keras.ops.array([0, 1, 2])))
        0.0
    """

    takes = ("references",)
    _removed = MappingProxyType({"variance_reduction": "sum"})

    def __init__(
        self,
        pos_a: float = 0.5,
        pos_b: float = 0.5,
        neg_a: float = 1.0,
        neg_b: float = 0.01,
        margin: float = 0.1,
        weight: float = 1.0,
        hyper_weight: float = 0.1,
        weight_p: float = 0.25,
        weight_n: float = 0.25,
        type: str = "log",
        top_neg: int | None = None,
        normalize: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(pos_b=pos_b, neg_b=neg_b)
        check_not_negative(margin=margin, weight=weight, weight_p=weight_p, weight_n=weight_n)
        if not 0 <= hyper_weight <= 1:
            raise ValueError(f"`hyper_weight` must lie in [0, 1]. Received: hyper_weight={hyper_weight}")
        if type not in ("log", "sqrt", "const", "none"):
            raise ValueError(f"`type` must be 'log', 'sqrt', 'const' or 'none'. Received: type={type!r}")
        if top_neg is not None and top_neg < 1:
            raise ValueError(f"`top_neg` must be at least 1, or None. Received: top_neg={top_neg}")
        self.pos_a = pos_a
        self.pos_b = pos_b
        self.neg_a = neg_a
        self.neg_b = neg_b
        self.margin = margin
        self.weight = weight
        self.hyper_weight = hyper_weight
        self.weight_p = weight_p
        self.weight_n = weight_n
        self.type = type
        self.top_neg = top_neg
        self.normalize = normalize

    def compute(self, embeddings, labels, references=None):
        rows, columns, positives, negatives = compare(embeddings, labels, references, self.normalize)
        similarities = dot_products(rows, columns)
        positives = ops.logical_and(positives, similarities < 1.0 - _IDENTICAL)
        kept_positives, kept_negatives = mine_pairs(similarities, positives, negatives, self.margin)
        if self.top_neg is not None:
            kept_negatives = self._highest(similarities, negatives)
        valid = ops.logical_and(ops.any(kept_positives, axis=1), ops.any(kept_negatives, axis=1))
        pull = masked_log1p_sum_exp((self.pos_a - similarities) / self.pos_b, kept_positives, axis=1)
        push = masked_log1p_sum_exp((similarities - self.neg_a) / self.neg_b, kept_negatives, axis=1)
        costs = self._shape(pull, self.weight_p) + self._shape(push, self.weight_n)
        center = self.hyper_weight * mean_where(similarities, positives, axis=1)
        center = center + (1.0 - self.hyper_weight) * mean_where(similarities, negatives, axis=1)
        squares = ops.where(negatives, ops.square(similarities - center[:, None]), ops.zeros_like(similarities))
        costs = costs + self.weight * ops.sum(squares, axis=1)
        return ops.mean(ops.where(valid, costs, ops.zeros_like(costs)))

    def _shape(self, log_of_sum, factor):
        """The cost of the chosen type from `log(1 + e)`."""
        if self.type == "none":
            return ops.zeros_like(log_of_sum)
        if self.type == "log":
            return log_of_sum
        if self.type == "sqrt":
            return ops.exp(0.5 * ops.minimum(log_of_sum, _LARGEST_EXPONENT))
        return 1.0 + factor * ops.expm1(ops.minimum(log_of_sum, _LARGEST_EXPONENT))

    def _highest(self, similarities, negatives):
        ordered = ops.sort(ops.where(negatives, similarities, float("-inf")), axis=1)
        place = ops.maximum(ops.shape(similarities)[1] - self.top_neg, 0)
        return ops.logical_and(negatives, similarities >= ops.take(ordered, place, axis=1)[:, None])
