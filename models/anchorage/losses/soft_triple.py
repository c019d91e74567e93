"""SoftTriple: Qian et al., ICCV 2019, equations 6-8."""

import math

import keras

from anchorage.checks import check_at_least_one, check_not_negative, check_positive
from anchorage.geometry import unit_rows
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import Reducer, check_any_reducer
from anchorage.proxies.bank import ProxyBank, gaps_within_classes
from anchorage.proxies.logits import softly_nearest
from anchorage.proxies.margin_softmax import softmax_with_target_logit


@keras.saving.register_keras_serializable(package="anchorage")
class SoftTripleLoss(LossLayer):
    """Softmax over classes that have several centres each, softly the nearest.

    Formula, with cosines `s_ikj` of embedding i and centre j of class k:

        S_ik = sum_j softmax_j(s_ikj / gamma) s_ikj
        loss_i = cross-entropy of the logits  la (S_ik - margin [k = label_i])

    plus, with `tau` above 0, what draws the centres of a class together so that needless ones merge:

        tau sum_k sum_{j < l} sqrt(2 - 2 w_kj.w_kl) / (K C (C - 1))

    Defaults: `train.py` of the authors' code (idstcv/SoftTriple), but for the merging term, which is off; there tau is
    0.2.

    Args:
        num_classes: number of training classes K; labels lie in `0 .. num_classes - 1`.
        centers_per_class: C, at least 1.
        la: scale (lambda in the paper), positive.
        gamma: how softly the nearest centre is chosen, positive.
        margin: taken off the own class's similarity, at least 0.
        tau: weight of the merging term, at least 0; the paper has 0.2, pytorch-metric-learning leaves it out.
        reducer: how the costs of the rows become one, see `anchorage.pairs.reducers`.

    Call arguments:
        row_weights: `(N,)` factors on the costs of the items, as a miner gives them; None for 1.
        novel_proxies: `(M, D)` proxies of further classes, labelled `num_classes` on, for this call only; needs
            one centre a class.

    Returns:
        Scalar float32 tensor, at least 0. A compiled call with a label outside the classes gives nan.

    Raises:
        ValueError: on a parameter out of range, shapes that do not fit
            together, or (eager calls) a label outside the classes.

    Example:
        >>> loss = SoftTripleLoss(num_classes=1)
        >>> float(loss(keras.ops.ones((2, 3)), keras.ops.array([0, 0])))  # nothing to confuse it with
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
        # The spread of Kaiming's uniform with a = sqrt(5) over all centres, which the reference starts from.
        spread = math.sqrt(1.0 / (3.0 * max(num_classes * centers_per_class, 1)))
        self.bank = ProxyBank(num_classes, centers_per_class, stddev=spread, dtype=self.dtype_policy)

    @property
    def proxies(self):
        """The `(num_classes * centers_per_class, D)` weight."""
        return self.bank.proxies

    def build(self, embeddings_shape, labels_shape):
        self.bank.build(embeddings_shape)

    def compute(self, embeddings, labels, row_weights=None, novel_proxies=None):
        rows, shift = self.la * unit_rows(embeddings), self.la * self.margin
        proxies = self.bank.by_class(novel_proxies)
        aggregate = softly_nearest(self.la * self.gamma)
        loss = softmax_with_target_logit(
            rows, proxies, labels, lambda own: own - shift, self.reducer, row_weights, aggregate
        )
        if not self.tau or self.centers_per_class == 1:
            return loss
        return loss + self.tau * gaps_within_classes(self.proxies, self.centers_per_class)
