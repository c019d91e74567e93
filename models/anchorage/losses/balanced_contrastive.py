"""Balance of contrastive losses: Sors et al., arXiv 2112.11743, 2021: a positive and an entropy term with a weight."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_between, check_not_negative, check_positive
from anchorage.geometry import dot_products, masked_logsumexp
from anchorage.losses.base import LossLayer
from anchorage.pairs.references import compare

AGGREGATIONS = ("sum_per_anchor", "mean", "mean_nonzero", "anchor_mean", "anchor_mean_nonzero", "log_sum_exp")
# Exponent of the batch size that `lam` is scaled with: fitted on random clusters, where sums overweight and means
# underweight the entropy term as the batch grows.
_POWERS = {**dict.fromkeys(AGGREGATIONS, 0.5), "sum_per_anchor": -0.5, "log_sum_exp": 0.0}


@keras.saving.register_keras_serializable(package="anchorage")
class BalancedContrastiveLoss(LossLayer):
    """Contrastive loss with an explicit weight between its positive and its entropy term.

    Formula, with cosines `s`: `loss = positive + lam * entropy`, divided by `1 + lam` with `norm_by_lambda`. The
    margin form aggregates

        positive: max(0, pos_margin - s_ij) over positives,    entropy: max(0, s_ij - margin) over negatives

    by `"sum_per_anchor"`, the sum over N; `"mean"` over pairs; `"mean_nonzero"` over pairs with a cost;
    `"anchor_mean"`, the mean over anchors of the mean over their pairs; `"anchor_mean_nonzero"`, the same over pairs
    with a cost. `"log_sum_exp"` is the softmax form,

        positive: -mean_i mean_{P_i} s_ij,    entropy: mean_i tau log sum_{A_i} exp(s_ik / tau)

    where `A_i` are all other items, or the negatives without `include_positive`. The formulas are our reading of the
    abstract, as the text of the paper was not open to us.

    Under every aggregation the ratio of the two gradients changes with the batch size: search `lam` together with it,
    or pass the size that `lam` was found at as `reference_size`. Then `lam` is multiplied by
    `(size / reference_size)^p` for `size` items that anchors are compared with, and p = -0.5 for `"sum_per_anchor"`,
    0 for `"log_sum_exp"` and 0.5 for the means.

    Defaults: ours, since of the paper only the abstract was open to us.

    Args:
        lam: weight of the entropy term (lambda), at least 0.
        margin: cosine above which a negative costs, in [-1, 1].
        pos_margin: cosine below which a positive costs, in [-1, 1].
        aggregation: see above.
        tau: temperature of `"log_sum_exp"`, positive.
        include_positive: include the positives in `"log_sum_exp"`.
        norm_by_lambda: divide by `1 + lam`, which keeps the size of the gradient when `lam` is searched with SGD.
        normalize: normalize the embeddings first.
        reference_size: see above, at least 1; None uses `lam` unchanged.
        watch: log `positive_term`, `entropy_term` and `balance_ratio`, averaged over the epoch, during training; costs
            two more matrix products.

    Call arguments:
        references: pairs chosen by a wrapper; None compares the batch with itself.
        training: `False` leaves the logged averages unchanged.

    Returns:
        Scalar float32 tensor; at least 0 for the margin form.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

    Example:
        >>> loss = BalancedContrastiveLoss(lam=2.0)
        >>> round(float(loss(keras.ops.ones((2, 2)), keras.ops.array([0, 1]))), 4)  # cosine 1, margin 0.5
        1.0
    """

    takes = ("references", "training")
    _removed = MappingProxyType({"form": "margin", "log_mean": False, "power": None})
    _replaced = (({"form": "softmax"}, {"aggregation": "log_sum_exp"}),)

    def __init__(
        self,
        lam: float = 1.0,
        margin: float = 0.5,
        pos_margin: float = 1.0,
        aggregation: str = "anchor_mean_nonzero",
        tau: float = 0.1,
        include_positive: bool = True,
        norm_by_lambda: bool = False,
        normalize: bool = True,
        reference_size: int | None = None,
        watch: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if aggregation not in AGGREGATIONS:
            raise ValueError(
                f"`aggregation` must be one of {list(AGGREGATIONS)}. Received: aggregation={aggregation!r}"
            )
        check_not_negative(lam=lam)
        check_between(-1, 1, margin=margin, pos_margin=pos_margin)
        check_positive(tau=tau)
        self.lam = lam
        self.margin = margin
        self.pos_margin = pos_margin
        self.aggregation = aggregation
        self.tau = tau
        self.include_positive = include_positive
        self.norm_by_lambda = norm_by_lambda
        self.normalize = normalize
        if reference_size is not None:
            check_at_least_one(reference_size=reference_size)
        self.reference_size = reference_size
        self.watch = watch
        shown = ("positive_term", "entropy_term", "balance_ratio") if watch else ()
        self._watched = {name: keras.metrics.Mean(name=name) for name in shown}

    def compute(self, embeddings, labels, references=None, training=None):
        pairs = compare(embeddings, labels, references, self.normalize)
        similarities = dot_products(pairs.rows, pairs.columns)
        terms, slopes = self._terms(similarities, pairs)
        if self._watched and training is not False:
            norms = [self._gradient_norm(slope, embeddings, pairs) for slope in slopes]
            self._watched["positive_term"].update_state(terms[0])
            self._watched["entropy_term"].update_state(terms[1])
            self._watched["balance_ratio"].update_state(_ratio(*norms))
        lam = self.lam
        if self.reference_size is not None:
            size = ops.cast(ops.shape(pairs.columns)[0], similarities.dtype)
            lam = rebalance(self.lam, self.reference_size, size, _POWERS[self.aggregation])
        return (terms[0] + lam * terms[1]) / (1.0 + lam if self.norm_by_lambda else 1.0)

    def terms(self, embeddings, labels):
        """The positive and the entropy term of a batch, two scalars.

        Example:
            >>> loss = BalancedContrastiveLoss(margin=0.5)
            >>> [round(float(term), 4) for term in loss.terms(keras.ops.ones((2, 2)), keras.ops.array([0, 1]))]
            [0.0, 0.5]
        """
        pairs = compare(embeddings, labels, None, self.normalize)
        return self._terms(dot_products(pairs.rows, pairs.columns), pairs)[0]

    def balance_ratio(self, embeddings, labels):
        """Ratio of the gradient norms of the entropy and the positive term, by the embeddings and without `lam`.

        It is 0 if the positive term has no gradient.

        Example:
            >>> rows = keras.ops.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
            >>> round(float(BalancedContrastiveLoss().balance_ratio(rows, keras.ops.array([0, 0, 1]))), 4)
            0.0
        """
        pairs = compare(embeddings, labels, None, self.normalize)
        slopes = self._terms(dot_products(pairs.rows, pairs.columns), pairs)[1]
        return _ratio(*(self._gradient_norm(slope, embeddings, pairs) for slope in slopes))

    @classmethod
    def without_removed(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """As in `LossLayer`; an older config holds the exponent of its form and aggregation."""
        softmax = config.get("form") == "softmax"
        aggregation = "log_sum_exp" if softmax else config.get("aggregation", "anchor_mean_nonzero")
        if config.get("power") == _POWERS.get(aggregation):
            config = {**config, "power": None}
        return super().without_removed(config)

    def _terms(self, similarities, pairs):
        """Both terms, and the derivatives of each with respect to the similarities, `(N, M)` without gradient."""
        positives, negatives = pairs.positives, pairs.negatives
        if self.aggregation != "log_sum_exp":
            pull, push = ops.relu(self.pos_margin - similarities), ops.relu(similarities - self.margin)
            shares = self._shares(pull, positives), self._shares(push, negatives)
            slopes = -shares[0] * ops.cast(pull > 0, pull.dtype), shares[1] * ops.cast(push > 0, push.dtype)
            return (ops.sum(shares[0] * pull), ops.sum(shares[1] * push)), slopes
        share = _mean_of_means(positives, similarities.dtype)
        others = ops.logical_or(positives, negatives) if self.include_positive else negatives
        entropies = masked_logsumexp(similarities / self.tau, others, axis=1)
        number = ops.cast(ops.maximum(ops.shape(similarities)[0], 1), similarities.dtype)
        fixed = ops.where(others, ops.stop_gradient(similarities / self.tau - entropies[:, None]), 0.0)
        slope = ops.where(others, ops.exp(fixed), 0.0) / number
        return (-ops.sum(share * similarities), self.tau * ops.mean(entropies)), (-share, slope)

    def _shares(self, costs, pairs):
        """The factor of each cost in the aggregate, `(N, M)` without gradient."""
        dtype = costs.dtype
        if self.aggregation.endswith("nonzero"):
            pairs = ops.logical_and(pairs, costs > 0)
        if self.aggregation.startswith("anchor"):
            return _mean_of_means(pairs, dtype)
        per_anchor = self.aggregation == "sum_per_anchor"
        number = ops.cast(ops.shape(costs)[0], dtype) if per_anchor else _count(pairs, dtype)
        return ops.cast(pairs, dtype) / ops.maximum(number, 1.0)

    def _gradient_norm(self, slopes, embeddings, pairs):
        slopes, rows, columns = (ops.stop_gradient(x) for x in (slopes, pairs.rows, pairs.columns))
        gradient = ops.matmul(slopes, columns)
        if pairs.columns is pairs.rows:
            gradient = gradient + ops.matmul(ops.transpose(slopes), rows)
        if self.normalize:
            gradient = gradient - rows * ops.sum(gradient * rows, axis=1, keepdims=True)
            squared = ops.sum(ops.square(ops.stop_gradient(embeddings)), axis=1, keepdims=True)
            gradient = gradient * ops.rsqrt(ops.where(squared > 0, squared, 1.0))
        return ops.sqrt(ops.sum(ops.square(gradient)))


def rebalance(lam, reference_size, size, power: float):
    """Scale a weight found at one batch size to another: `lam (size / reference_size)^power`."""
    return lam * (size / reference_size) ** power


def _count(mask, dtype, axis=None, keepdims=False):
    return ops.sum(ops.cast(mask, dtype), axis=axis, keepdims=keepdims)


def _mean_of_means(pairs, dtype):
    """Factors of the mean, over the anchors with pairs, of the mean over the pairs of each anchor."""
    each = _count(pairs, dtype, axis=1, keepdims=True)
    return ops.cast(pairs, dtype) / (ops.maximum(each, 1.0) * ops.maximum(_count(each > 0, dtype), 1.0))


def _ratio(of_positives, of_entropy):
    return ops.where(of_positives > 0, of_entropy / ops.where(of_positives > 0, of_positives, 1.0), 0.0)
