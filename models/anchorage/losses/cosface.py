"""CosFace: Wang et al., CVPR 2018, equation 4; AM-Softmax: Wang, Cheng, Liu & Liu, IEEE SPL 2018, equation 6."""

import keras

from anchorage.checks import check_not_negative, check_positive
from anchorage.geometry import unit_rows
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import Reducer, check_any_reducer
from anchorage.proxies.bank import ProxyBank
from anchorage.proxies.margin_softmax import softmax_with_target_logit


@keras.saving.register_keras_serializable(package="anchorage")
class CosFaceLoss(LossLayer):
    """Softmax cross-entropy with a margin subtracted from the cosine to the target class.

    Formula, with theta the angle between an embedding and a class weight:

        target logit: scale (cos theta - margin)
        other logits: scale cos theta
        loss_i = cross-entropy of the logits

    Defaults: 0.35 and 64, `CosFaceLoss` of pytorch-metric-learning 2.9; its `docs/losses.md` gives 64 and margins from
    0.25 to 0.45 for the CVPR paper.

    Args:
        num_classes: number of training classes; labels lie in `0 .. num_classes - 1`.
        margin: subtracted from the target cosine, at least 0.
        scale: factor on the cosines, positive.
        reducer: reduction of the per-sample losses, see `anchorage.pairs.reducers`.

    Call arguments:
        row_weights: `(N,)` per-sample weights, as from a miner; None weights all samples by 1.

    Returns:
        Non-negative float32 scalar; NaN if a compiled call receives a label out of range.

    Raises:
        ValueError: if an argument is out of range, shapes are incompatible, or (eager calls) a label is out of range.

    Example:
        >>> loss = CosFaceLoss(num_classes=1)
        >>> float(loss(keras.ops.ones((2, 3)), keras.ops.array([0, 0])))  # one class: nothing to separate
        0.0
    """

    takes = ("row_weights",)
    dense_labels = True

    def __init__(
        self, num_classes: int, margin: float = 0.35, scale: float = 64.0, reducer: Reducer = "mean", **kwargs
    ):
        super().__init__(**kwargs)
        check_not_negative(margin=margin)
        check_positive(scale=scale)
        self.num_classes = num_classes
        self.margin = margin
        self.scale = scale
        self.reducer = check_any_reducer(reducer)
        self.bank = ProxyBank(num_classes, stddev=1.0, dtype=self.dtype_policy)

    @property
    def proxies(self):
        """The `(num_classes, D)` weight."""
        return self.bank.proxies

    def build(self, embeddings_shape, labels_shape):
        self.bank.build(embeddings_shape)

    def compute(self, embeddings, labels, row_weights=None):
        rows, margin = self.scale * unit_rows(embeddings), self.scale * self.margin
        proxies = self.bank.by_class()
        return softmax_with_target_logit(
            rows, proxies, labels, lambda target: target - margin, self.reducer, row_weights
        )
