"""SphereFace: Liu et al., CVPR 2017, equation 7; large-margin softmax: Liu, Wen, Yu & Yang, ICML 2016, equation 4."""

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_positive
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import Reducer, check_any_reducer
from anchorage.proxies.bank import ProxyBank
from anchorage.proxies.margin_softmax import falling_cosine_of_multiple, softmax_with_target_logit

_TINY = 1e-12


@keras.saving.register_keras_serializable(package="anchorage")
class SphereFaceLoss(LossLayer):
    """Softmax over class directions, the angle to the own one multiplied by a whole number.

    Formula, with theta the angle between embedding x and class weight w, `k = floor(m theta / pi)`:

        own logit:    scale |x| |w| ((-1)^k cos(m theta) - 2 k)
        other logits: scale |x| |w| cos theta
        loss_i = cross-entropy of the logits

    where `|w|` is taken as 1 unless `weight_lengths`, which makes it the large-margin softmax.

    Defaults: 4 and 1, which pytorch-metric-learning 2.9 gives for the margin that works best and the scale
    (`docs/losses.md`, LargeMarginSoftmaxLoss).

    Args:
        num_classes: number of training classes; labels lie in `0 .. num_classes - 1`.
        margin: m, a whole number, at least 1.
        scale: factor on all logits, positive.
        weight_lengths: let the lengths of the class weights count.
        reducer: how the costs of the rows become one, see `anchorage.pairs.reducers`.

    Call arguments:
        embeddings: `(N, D)` float tensor; not normalised, the lengths count.
        row_weights: `(N,)` factors on the costs of the items, as a miner gives them; None for 1.

    Returns:
        Scalar float32 tensor, at least 0. A compiled call with a label outside the classes gives nan.

    Raises:
        ValueError: on a parameter out of range, shapes that do not fit
            together, or (eager calls) a label outside the classes.

    Example:
        >>> loss = SphereFaceLoss(num_classes=1)
        >>> float(loss(keras.ops.ones((2, 3)), keras.ops.array([0, 0])))  # nothing to confuse it with
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
        lengths = self.scale * _lengths(embeddings)
        if self.weight_lengths:
            proxies = ops.convert_to_tensor(self.proxies)[:, None, :]
            lengths = lengths * ops.take(_lengths(self.proxies), labels, axis=0)
        else:
            proxies = self.bank.by_class()
        safe = ops.where(lengths > 0, lengths, 1.0)
        return softmax_with_target_logit(
            self.scale * embeddings,
            proxies,
            labels,
            lambda own: lengths * falling_cosine_of_multiple(own / safe, self.margin),
            self.reducer,
            row_weights,
        )


def _lengths(x):
    """Euclidean length of each row; 0 with zero gradient for a zero row."""
    squared = ops.sum(ops.square(x), axis=1)
    some = squared > _TINY
    return ops.where(some, ops.sqrt(ops.where(some, squared, 1.0)), 0.0)
