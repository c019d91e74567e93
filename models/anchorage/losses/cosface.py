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
    """Softmax over class directions, the cosine with the own one made smaller by a margin.

    Formula, with theta the angle between embedding and class direction:

        own logit:    scale (cos theta - margin)
        other logits: scale cos theta
        loss_i = cross-entropy of the logits

    Defaults: 0.35 and 64, `CosFaceLoss` of pytorch-metric-learning 2.9; its `docs/losses.md` gives 64 and margins from
    0.25 to 0.45 for the CVPR paper.

    Args:
        num_classes: number of training classes; labels lie in `0 .. num_classes - 1`.
        margin: taken off the own cosine, at least 0.
        scale: length of the embeddings, positive.
        reducer: how the costs of the rows become one, see `anchorage.pairs.reducers`.

    Call arguments:
        row_weights: `(N,)` factors on the costs of the items, as a miner gives them; None for 1.

    Returns:
        Scalar float32 tensor, at least 0. A compiled call with a label outside the classes gives nan.

    Raises:
        ValueError: on a parameter out of range, shapes that do not fit
            together, or (eager calls) a label outside the classes.

    Example:
        >>> loss = CosFaceLoss(num_classes=1)
        >>> float(loss(keras.ops.ones((2, 3)), keras.ops.array([0, 0])))  # nothing to confuse it with
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
        rows, shift = self.scale * unit_rows(embeddings), self.scale * self.margin
        proxies = self.bank.by_class()
        return softmax_with_target_logit(rows, proxies, labels, lambda own: own - shift, self.reducer, row_weights)
