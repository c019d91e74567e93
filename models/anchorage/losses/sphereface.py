"""SphereFace: Liu et al., CVPR 2017, equation 7; large-margin softmax: Liu, Wen, Yu & Yang, ICML 2016, equation 4."""

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_positive
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import Reducer, check_any_reducer
from anchorage.proxies.bank import ProxyBank
from anchorage.proxies.margin_softmax import multiple_angle_cosine, softmax_with_target_logit

_TINY = 1e-12


@keras.saving.register_keras_serializable(package="anchorage")
class SphereFaceLoss(LossLayer):
    """Softmax cross-entropy with a multiplicative angular margin on the target class.

    Formula, with theta the angle between an embedding x and a class weight w, and `k = floor(m theta / pi)`:

        target logit: scale |x| |w| ((-1)^k cos(m theta) - 2 k)
        other logits: scale |x| |w| cos theta
        loss_i = cross-entropy of the logits

    where `|w|` is 1 unless `weight_lengths=True`, which gives the large-margin softmax.

    Defaults: 4 and 1, which pytorch-metric-learning 2.9 gives as the best margin and the scale
    (`docs/losses.md`, LargeMarginSoftmaxLoss).

    Args:
        num_classes: number of training classes; labels lie in `0 .. num_classes - 1`.
        margin: m, an integer, at least 1.
        scale: factor on all logits, positive.
        weight_lengths: keep the norms of the class weights instead of normalizing them.
        reducer: reduction of the per-sample losses, see `anchorage.pairs.reducers`.

    Call arguments:
        embeddings: `(N, D)` float tensor, not normalized: norms enter the loss.
        row_weights: `(N,)` per-sample weights, as from a miner; None weights all samples by 1.

    Returns:
        Non-negative float32 scalar; NaN if a compiled call receives a label out of range.

    Raises:
        ValueError: if an argument is out of range, shapes are incompatible, or (eager calls) a label is out of range.

    Example:
        >>> loss = SphereFaceLoss(num_classes=1)
        >>> float(loss(keras.ops.ones((2, 3)), keras.ops.array([0, 0])))  # one class: nothing to separate
        0.0
    """

    takes = ("row_weights",)
    dense_labels = True

    def __init__(
        self,
        num_classes: int,
        margin: int = 4,
        scale: float = 1.0,
        weight_lengths: bool = False,
        reducer: Reducer = "mean",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least_one(margin=margin)
        check_positive(scale=scale)
        self.num_classes = num_classes
        self.margin = margin
        self.scale = scale
        self.weight_lengths = weight_lengths
        self.reducer = check_any_reducer(reducer)
        self.bank = ProxyBank(num_classes, stddev=1.0, dtype=self.dtype_policy)

    @property
    def proxies(self):
        """The `(num_classes, D)` weight."""
        return self.bank.proxies

    def build(self, embeddings_shape, labels_shape):
        self.bank.build(embeddings_shape)

    def compute(self, embeddings, labels, row_weights=None):
        norms = self.scale * _safe_norms(embeddings)
        if self.weight_lengths:
            proxies = ops.convert_to_tensor(self.proxies)[:, None, :]
            norms = norms * ops.take(_safe_norms(self.proxies), labels, axis=0)
        else:
            proxies = self.bank.by_class()
        divisors = ops.where(norms > 0, norms, 1.0)
        return softmax_with_target_logit(
            self.scale * embeddings,
            proxies,
            labels,
            lambda target: norms * multiple_angle_cosine(target / divisors, self.margin),
            self.reducer,
            row_weights,
        )


def _safe_norms(x):
    """Euclidean norm of each row; a zero row has norm 0 and zero gradient."""
    squared = ops.sum(ops.square(x), axis=1)
    nonzero = squared > _TINY
    return ops.where(nonzero, ops.sqrt(ops.where(nonzero, squared, 1.0)), 0.0)
