"""ArcFace: Deng, Guo, Xue & Zafeiriou, CVPR 2019, equation 3; with sub-centres: Deng et al., ECCV 2020, section 3.2."""

import math

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_positive
from anchorage.geometry import unit_rows
from anchorage.labels import check_class_labels
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import Reducer, check_any_reducer
from anchorage.proxies.bank import ProxyBank
from anchorage.proxies.logits import sums_of_classes
from anchorage.proxies.margin_softmax import cosine_of_sum, softmax_with_target_logit


@keras.saving.register_keras_serializable(package="anchorage")
class ArcFaceLoss(LossLayer):
    """Softmax cross-entropy with an additive angular margin on the target class.

    Formula, with theta the angle between an embedding and a class weight, and m the margin:

        target logit: scale cos(theta + m)                 if theta <= pi - m
                      scale (cos theta - m sin m)          otherwise
        other logits: scale cos theta
        loss_i = cross-entropy of the logits

    With `sub_centers` above 1 each class has that many sub-centres, and its logit is that of the nearest one;
    `find_outliers` then detects samples that are likely mislabelled.

    Defaults: 0.5 rad and 64, which pytorch-metric-learning 2.9 quotes from the 2019 paper (`docs/losses.md`,
    ArcFaceLoss); one centre per class, which is plain ArcFace (its `SubCenterArcFaceLoss`: 3).

    Args:
        num_classes: number of training classes; labels lie in `0 .. num_classes - 1`.
        margin: m in degrees, in [0, 180); 28.6 is the paper's 0.5 rad.
        scale: factor on the cosines, positive.
        sub_centers: sub-centres per class, at least 1; 3 in the sub-centre paper.
        reducer: reduction of the per-sample losses, see `anchorage.pairs.reducers`.

    Call arguments:
        row_weights: `(N,)` per-sample weights, as from a miner; None weights all samples by 1.

    Returns:
        Non-negative float32 scalar; NaN if a compiled call receives a label out of range.

    Raises:
        ValueError: if an argument is out of range, shapes are incompatible, or (eager calls) a label is out of range.

    Example:
        >>> loss = ArcFaceLoss(num_classes=1)
        >>> float(loss(keras.ops.ones((2, 3)), keras.ops.array([0, 0])))  # one class: nothing to separate
        0.0
    """

    takes = ("row_weights",)
    dense_labels = True

    def __init__(
        self,
        num_classes: int,
        margin: float = 28.6,
        scale: float = 64.0,
        sub_centers: int = 1,
        reducer: Reducer = "mean",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not 0 <= margin < 180:
            raise ValueError(f"`margin` must lie in [0, 180), in degrees. Received: margin={margin}")
        check_positive(scale=scale)
        check_at_least_one(sub_centers=sub_centers)
        self.num_classes = num_classes
        self.margin = margin
        self.scale = scale
        self.sub_centers = sub_centers
        self.reducer = check_any_reducer(reducer)
        self.bank = ProxyBank(num_classes, sub_centers, stddev=1.0, dtype=self.dtype_policy)

    @property
    def proxies(self):
        """The `(num_classes * sub_centers, D)` weight."""
        return self.bank.proxies

    def build(self, embeddings_shape, labels_shape):
        self.bank.build(embeddings_shape)

    def compute(self, embeddings, labels, row_weights=None):
        rows, proxies = self.scale * unit_rows(embeddings), self.bank.by_class()
        return softmax_with_target_logit(rows, proxies, labels, self._add_margin, self.reducer, row_weights)

    def find_outliers(self, embeddings, labels, angle: float = 75.0):
        """Find the samples far from the dominant sub-centre of their class.

        The dominant sub-centre of a class is the nearest one for most of its samples. The sub-centre paper drops the
        outliers and trains again.

        Args:
            embeddings: `(M, D)` float tensor of the whole training set.
            labels: `(M,)` integer tensor of class ids.
            angle: largest angle in degrees to the dominant sub-centre, in (0, 180).

        Returns:
            `(M,)` bool tensor, true for outliers, and `(num_classes,)` int32 tensor, the dominant sub-centre per class.

        Example:
            >>> loss = ArcFaceLoss(num_classes=1, sub_centers=1)
            >>> loss.build((None, 2), (None,))
            >>> _ = loss.proxies.assign([[1.0, 0.0]])
            >>> outliers, _ = loss.find_outliers([[2.0, 0.1], [0.0, 1.0]], [0, 0])  # near, and at a right angle
            >>> [bool(outlier) for outlier in outliers]
            [False, True]
        """
        labels, _ = check_class_labels(labels, self.num_classes)
        rows = unit_rows(ops.convert_to_tensor(embeddings, dtype=self.compute_dtype))
        shape = (self.num_classes, self.sub_centers, -1)
        centers = ops.take(ops.reshape(unit_rows(ops.convert_to_tensor(self.proxies)), shape), labels, axis=0)
        cosines = ops.sum(centers * rows[:, None, :], axis=2)
        votes = ops.one_hot(ops.argmax(cosines, axis=1), self.sub_centers)
        dominant = ops.cast(ops.argmax(sums_of_classes(votes, labels, self.num_classes), axis=1), "int32")
        to_dominant = ops.take_along_axis(cosines, ops.take(dominant, labels, axis=0)[:, None], axis=1)[:, 0]
        return to_dominant < math.cos(math.radians(angle)), dominant

    def _add_margin(self, logits):
        cosines, margin = logits / self.scale, math.radians(self.margin)
        in_range = cosines >= -math.cos(margin)  # theta <= pi - m
        shifted = cosine_of_sum(cosines, math.cos(margin), math.sin(margin))
        return self.scale * ops.where(in_range, shifted, cosines - margin * math.sin(margin))
