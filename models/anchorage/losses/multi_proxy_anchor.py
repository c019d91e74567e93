"""Multi-proxies anchor: Saeki et al., arXiv 2110.03997, 2021; one proxy: Proxy-Anchor, Kim et al., CVPR 2020, eq. 4."""

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_not_negative, check_positive
from anchorage.geometry import masked_log1p_sum_exp, unit_rows
from anchorage.losses.base import LossLayer
from anchorage.proxies.bank import ProxyBank, gaps_within_classes
from anchorage.proxies.logits import (
    class_logits,
    over_classes,
    softmax_weighted,
    sums_of_classes,
    target_and_others,
    target_logits,
)

VARIANTS = ("class_anchor", "data_anchor")
_EPSILON = 1e-5  # SoftTriple's constant under the square root of the regularizer


@keras.saving.register_keras_serializable(package="anchorage")
class MultiProxyAnchorLoss(LossLayer):
    """Proxy-Anchor loss with several proxies per class; `proxies_per_class=1` is Proxy-Anchor.

    Formula, with `s_nck` the cosine of embedding n and proxy k of class c:

        S_nc = sum_k softmax_k(s_nck / gamma) s_nck
        loss = 1/|C+| sum_{c in C+} log(1 + sum_{y_n = c} exp(-alpha (S_nc - delta)))
             + 1/C sum_c log(1 + sum_{y_n != c} exp(alpha (S_nc + delta)))

    `C+` are the classes present in the batch; the second mean is over all `C` classes. `variant="data_anchor"` swaps
    the roles of samples and classes, with one loss term per sample:

        loss = 1/N sum_n [ log(1 + exp(-alpha (S_{n y_n} - delta)))
                         + log(1 + sum_{c != y_n} exp(alpha (S_nc + delta))) ]

    We could not consult the text of the paper: the first form follows its abstract, with the class similarity of
    SoftTriple; the second is our reading of the abstract of a later version.

    Defaults: 32 and 0.1 of Proxy-Anchor's `code/train.py` (tjddus9597/Proxy-Anchor-CVPR2020), gamma of SoftTriple's
    `train.py` (idstcv/SoftTriple); four proxies per class are ours, as we could not consult the text of the paper.

    Args:
        num_classes: number of training classes; labels lie in `0 .. num_classes - 1`.
        proxies_per_class: number of proxies per class K, at least 1.
        alpha: scale of the exponents, positive.
        delta: margin on the cosine, in [0, 1].
        gamma: temperature of the softmax over the proxies of a class, positive; towards 0 only the nearest counts.
        tau_reg: weight, at least 0, of a regularizer that merges the proxies p of a class:
            `sum_c sum_{a<b} sqrt(2 - 2 p_ca.p_cb + 1e-5) / (C K (K - 1))`.
        variant: `"class_anchor"` or `"data_anchor"`, see above.

    Call arguments:
        row_weights: `(N,)` per-sample weights, as from a miner; `weight - 1` is added to the exponents, as in
            pytorch-metric-learning.
        novel_proxies: `(M, D)` proxies of additional classes, with labels from `num_classes` on, for this call only;
            requires one proxy per class.

    Returns:
        Non-negative float32 scalar; NaN if a compiled call receives a label out of range.

    Raises:
        ValueError: if an argument is out of range, shapes are incompatible, or (eager calls) a label is out of range.

    Example:
        >>> loss = MultiProxyAnchorLoss(num_classes=3, proxies_per_class=2)
        >>> bool(loss(keras.ops.eye(3), keras.ops.array([0, 1, 2])) > 0)
        True
    """

    takes = ("row_weights", "novel_proxies")
    dense_labels = True

    def __init__(
        self,
        num_classes: int,
        proxies_per_class: int = 4,
        alpha: float = 32.0,
        delta: float = 0.1,
        gamma: float = 0.1,
        tau_reg: float = 0.0,
        variant: str = "class_anchor",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least_one(num_classes=num_classes, proxies_per_class=proxies_per_class)
        check_positive(alpha=alpha, gamma=gamma)
        if not 0 <= delta <= 1:
            raise ValueError(f"`delta` must lie in [0, 1]. Received: delta={delta}")
        check_not_negative(tau_reg=tau_reg)
        if variant not in VARIANTS:
            raise ValueError(f"`variant` must be one of {list(VARIANTS)}. Received: variant={variant!r}")
        self.num_classes = num_classes
        self.proxies_per_class = proxies_per_class
        self.alpha = alpha
        self.delta = delta
        self.gamma = gamma
        self.tau_reg = tau_reg
        self.variant = variant
        self.bank = ProxyBank(num_classes, proxies_per_class, dtype=self.dtype_policy)

    @property
    def proxies(self):
        """The `(num_classes * proxies_per_class, D)` weight."""
        return self.bank.proxies

    def build(self, embeddings_shape, labels_shape):
        self.bank.build(embeddings_shape)

    def compute(self, embeddings, labels, row_weights=None, novel_proxies=None):
        rows, proxies = self.alpha * unit_rows(embeddings), self.bank.by_class(novel_proxies)
        aggregate = softmax_weighted(self.alpha * self.gamma)
        classes = ops.shape(proxies)[0]
        shift = ops.zeros_like(rows[:, 0]) if row_weights is None else row_weights - 1.0
        shift = shift + self.alpha * self.delta
        if self.variant == "data_anchor":
            target, others = target_and_others(rows, proxies, labels, aggregate)
            pull, push = ops.mean(ops.softplus(shift - target)), ops.mean(ops.softplus(others + shift))
        else:
            pull = _pull(shift - target_logits(rows, proxies, labels, aggregate), labels, classes)
            push = ops.mean(self._push(rows, proxies, labels, shift, aggregate))
        return pull + push + self._regularizer()

    def _push(self, rows, proxies, labels, shift, aggregate):
        """`(C,)` second terms of the loss: `log(1 + sum exp)` over the samples of other classes."""

        def of_chunk(ids, proxies, rows, shift):
            exponents = class_logits(rows, proxies, aggregate) + shift[:, None]
            return masked_log1p_sum_exp(exponents, labels[:, None] != ids[None, :], axis=0)

        return over_classes(of_chunk, (proxies,), rows, shift, memory_per_class=(rows.shape[0], self.proxies_per_class))

    def _regularizer(self):
        k = self.proxies_per_class
        if not self.tau_reg or k == 1:
            return 0.0
        return self.tau_reg * gaps_within_classes(self.proxies, k, _EPSILON)


def _pull(exponents, labels, classes):
    """Mean over the classes present of `log(1 + sum exp)` over their samples, without a (batch, classes) tensor."""
    largest = ops.maximum(ops.segment_max(ops.stop_gradient(exponents), labels, num_segments=classes), 0.0)
    total = sums_of_classes(ops.exp(exponents - ops.take(largest, labels, axis=0)), labels, classes)
    sizes = sums_of_classes(ops.ones_like(exponents), labels, classes)
    terms = largest + ops.log1p(total + ops.expm1(-largest))
    present = ops.cast(sizes > 0, exponents.dtype)
    return ops.sum(present * terms) / ops.sum(present)
