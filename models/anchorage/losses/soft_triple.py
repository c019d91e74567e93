"""SoftTriple: Qian et al., ICCV 2019, equations 6-8."""

import math

import keras

from anchorage.checks import check_at_least_one, check_not_negative, check_positive
from anchorage.geometry import unit_rows
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import Reducer, check_any_reducer
from anchorage.proxies.bank import ProxyBank, gaps_within_classes
from anchorage.proxies.logits import softmax_weighted
from anchorage.proxies.margin_softmax import softmax_with_target_logit


@keras.saving.register_keras_serializable(package="anchorage")
class SoftTripleLoss(LossLayer):
    """Softmax cross-entropy over classes with several centres each.

    Formula, with `s_ikj` the cosine of embedding i and centre j of class k:

        S_ik = sum_j softmax_j(s_ikj / gamma) s_ikj
        loss_i = cross-entropy of the logits  la (S_ik - margin [k = label_i])

    plus, with `tau` above 0, a regularizer that merges redundant centres w of a class:

        tau sum_k sum_{j < l} sqrt(2 - 2 w_kj.w_kl) / (K C (C - 1))

    Defaults: `train.py` of the authors' code (idstcv/SoftTriple), except for the regularizer, which is off here; there
    tau is 0.2.

    Args:
        num_classes: number of training classes K; labels lie in `0 .. num_classes - 1`.
        centers_per_class: number of centres per class C, at least 1.
        la: scale of the logits (lambda in the paper), positive.
        gamma: temperature of the softmax over the centres of a class, positive.
        margin: subtracted from the target similarity, at least 0.
        tau: weight of the regularizer, at least 0; 0.2 in the paper, absent in pytorch-metric-learning.
        reducer: reduction of the per-sample losses, see `anchorage.pairs.reducers`.

    Call arguments:
        row_weights: `(N,)` per-sample weights, as from a miner; None weights all samples by 1.
        novel_proxies: `(M, D)` proxies of additional classes, with labels from `num_classes` on, for this call only;
            requires one centre per class.

    Returns:
        Non-negative float32 scalar; NaN if a compiled call receives a label out of range.

    Raises:
        ValueError: if an argument is out of range, shapes are incompatible, or (eager calls) a label is out of range.

    Example:
        >>> loss = SoftTripleLoss(num_classes=1)
        >>> float(loss(keras.ops.ones((2, 3)), keras.ops.array([0, 0])))  # one class: nothing to separate
        0.0
    """

    takes = ("row_weights", "novel_proxies")
    dense_labels = True

    def __init__(
        self,
        num_classes: int,
        centers_per_class: int = 10,
        la: float = 20.0,
        gamma: float = 0.1,
        margin: float = 0.01,
        tau: float = 0.0,
        reducer: Reducer = "mean",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least_one(centers_per_class=centers_per_class)
        check_positive(la=la, gamma=gamma)
        check_not_negative(margin=margin, tau=tau)
        self.num_classes = num_classes
        self.centers_per_class = centers_per_class
        self.la = la
        self.gamma = gamma
        self.margin = margin
        self.tau = tau
        self.reducer = check_any_reducer(reducer)
        # Standard deviation of the Kaiming uniform initializer with a = sqrt(5), used by the reference code.
        stddev = math.sqrt(1.0 / (3.0 * max(num_classes * centers_per_class, 1)))
        self.bank = ProxyBank(num_classes, centers_per_class, stddev=stddev, dtype=self.dtype_policy)

    @property
    def proxies(self):
        """The `(num_classes * centers_per_class, D)` weight."""
        return self.bank.proxies

    def build(self, embeddings_shape, labels_shape):
        self.bank.build(embeddings_shape)

    def compute(self, embeddings, labels, row_weights=None, novel_proxies=None):
        rows, margin = self.la * unit_rows(embeddings), self.la * self.margin
        proxies = self.bank.by_class(novel_proxies)
        aggregate = softmax_weighted(self.la * self.gamma)
        loss = softmax_with_target_logit(
            rows, proxies, labels, lambda target: target - margin, self.reducer, row_weights, aggregate
        )
        if not self.tau or self.centers_per_class == 1:
            return loss
        return loss + self.tau * gaps_within_classes(self.proxies, self.centers_per_class)
