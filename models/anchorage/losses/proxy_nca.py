"""Proxy-NCA: Movshovitz-Attias et al., ICCV 2017, eq. 4; Proxy-NCA++: Teh, DeVries & Taylor, ECCV 2020, eq. 6."""

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_positive
from anchorage.geometry import unit_rows
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import Reducer, check_any_reducer, reduce_costs
from anchorage.proxies.bank import ProxyBank
from anchorage.proxies.logits import class_logits, logsumexp_of_others, mean_of_others, target_logits

_STDDEV = 0.125  # N(0, 1) / 8, from dichotomies/proxy-nca, the most used implementation


@keras.saving.register_keras_serializable(package="anchorage")
class ProxyNCALoss(LossLayer):
    """Pulls each embedding towards the proxy of its class and away from the proxies of all other classes.

    Formula, with `D_ic = |scale_x x_i - scale_p p_c|^2` on unit vectors x, p and y the class of sample i:

        include_positive=False:  mean_i  D_iy + log sum_{c != y} exp(-D_ic)      (paper; can be negative)
        include_positive=True:   mean_i  D_iy + log sum_c exp(-D_ic)             (Proxy-NCA++; at least 0)

    With several proxies per class, `D_iy` is the distance to the nearest proxy of class y, and the sum over the other
    classes includes all their proxies. The class y is the label of the sample (the paper's static assignment) or the
    class of the nearest proxy (its dynamic assignment, for data without labels: `num_classes` is then the number of
    proxies, and labels are ignored). No gradient flows through the choice of the nearest proxy.

    Proxy-NCA++ is `include_positive=True` with temperature 1/9, which equals the scales 3 and 3; a `softmax_scale` s of
    pytorch-metric-learning is `scale_x = scale_p = sqrt(s)`. The paper gives no scales: 3 and 3 for CUB and Cars, 1
    and 8 for SOP come from dichotomies/proxy-nca.

    Defaults: 3 and 3 of the README of dichotomies/proxy-nca for CUB and Cars196, as the paper gives no scales; the
    temperature 1/9 of Proxy-NCA++ is 3 and 3 as well.

    Args:
        num_classes: number of training classes; labels lie in `0 .. num_classes - 1`.
        proxies_per_class: number of proxies per class, at least 1.
        scale_x: norm of the scaled embeddings, positive.
        scale_p: norm of the scaled proxies, positive.
        include_positive: include the target proxy in the sum.
        label_smoothing: target mass in [0, 1) spread over the other classes; requires `include_positive`.
        assignment: `"static"` or `"dynamic"`, see above.
        reducer: reduction of the per-sample losses, see `anchorage.pairs.reducers`; `"avg_non_zero"` requires
            `include_positive`, as it would drop negative losses.

    Call arguments:
        row_weights: `(N,)` per-sample weights, as from a miner; None weights all samples by 1.
        novel_proxies: `(M, D)` proxies of additional classes, with labels from `num_classes` on, for this call only;
            requires one proxy per class.

    Returns:
        Float32 scalar, 0 with a single class; NaN if a compiled call receives a label out of range.

    Raises:
        ValueError: if an argument is out of range, shapes are incompatible, or (eager calls) a label is out of range.

    Example:
        >>> loss = ProxyNCALoss(num_classes=3, include_positive=True)
        >>> bool(loss(keras.ops.eye(3), keras.ops.array([0, 1, 2])) > 0)
        True
    """

    takes = ("row_weights", "novel_proxies")

    def __init__(
        self,
        num_classes: int,
        proxies_per_class: int = 1,
        scale_x: float = 3.0,
        scale_p: float = 3.0,
        include_positive: bool = False,
        label_smoothing: float = 0.0,
        assignment: str = "static",
        reducer: Reducer = "mean",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least_one(num_classes=num_classes, proxies_per_class=proxies_per_class)
        check_positive(scale_x=scale_x, scale_p=scale_p)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"`label_smoothing` must lie in [0, 1). Received: label_smoothing={label_smoothing}")
        if label_smoothing and not include_positive:
            raise ValueError(
                f"`label_smoothing` needs include_positive=True. Received: label_smoothing={label_smoothing}"
            )
        if assignment not in ("static", "dynamic"):
            raise ValueError(f"`assignment` must be 'static' or 'dynamic'. Received: assignment={assignment!r}")
        self.num_classes = num_classes
        self.proxies_per_class = proxies_per_class
        self.scale_x = scale_x
        self.scale_p = scale_p
        self.include_positive = include_positive
        self.label_smoothing = label_smoothing
        self.assignment = assignment
        self.reducer = check_any_reducer(reducer)
        if self.reducer == "avg_non_zero" and not include_positive:
            raise ValueError(
                "`reducer` must not be 'avg_non_zero' with include_positive=False: losses can be negative, and it "
                "would drop them. Use 'mean' or include_positive=True. Received: reducer='avg_non_zero'"
            )
        self.bank = ProxyBank(num_classes, proxies_per_class, stddev=_STDDEV, dtype=self.dtype_policy)

    @property
    def proxies(self):
        """The `(num_classes * proxies_per_class, D)` weight."""
        return self.bank.proxies

    @property
    def label_range(self):
        return self.num_classes if self.assignment != "dynamic" else None

    def build(self, embeddings_shape, labels_shape):
        self.bank.build(embeddings_shape)

    def compute(self, embeddings, labels, row_weights=None, novel_proxies=None):
        # The squared norms are the same in every distance and cancel: -D_ic + const is a scaled cosine.
        rows = 2.0 * self.scale_x * self.scale_p * unit_rows(embeddings)
        proxies = self.bank.by_class(novel_proxies)
        if self.assignment == "dynamic":
            labels = ops.argmax(class_logits(rows, ops.stop_gradient(proxies)), axis=1)
        target = target_logits(rows, proxies, labels)
        if proxies.shape[0] == 1:
            return 0.0 * ops.sum(target)
        others = [logsumexp_of_others(rows, proxies[:, k : k + 1], labels) for k in range(self.proxies_per_class)]
        losses = ops.logsumexp(ops.stack(others), axis=0) - target
        if self.include_positive:
            losses = ops.softplus(losses)
        if self.label_smoothing:
            losses = losses + self.label_smoothing * (target - mean_of_others(rows, proxies, labels))
        losses = losses if row_weights is None else losses * row_weights
        return reduce_costs(losses, ops.ones_like(losses, dtype="bool"), self.reducer, labels)
