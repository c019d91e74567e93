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
    """Softmax over class directions with a margin added to the angle to the target direction.

    Formula, with theta the angle between embedding and class direction, m the margin:

        target logit: scale cos(theta + m)                 if theta <= pi - m
                      scale (cos theta - m sin m)          otherwise
        other logits: scale cos theta
        loss_i = cross-entropy of the logits

    With `sub_centers` above 1 a class has that many directions and the nearest of them counts; `find_outliers` then
    finds items that are probably mislabeled.

    Defaults: 0.5 rad and 64, which pytorch-metric-learning 2.9 gives for the 2019 paper (`docs/losses.md`,
    ArcFaceLoss); one direction per class, which is plain ArcFace (its `SubCenterArcFaceLoss`: 3).

    Args:
        num_classes: number of training classes; labels lie in `0 .. num_classes - 1`.
        margin: m in degrees, in [0, 180); 28.6 is the paper's 0.5 rad.
        scale: length of the embeddings, positive.
        sub_centers: directions of each class; 3 in the sub-centre paper.
        reducer: how the costs of the rows become one, see `anchorage.pairs.reducers`.

    Call arguments:
        row_weights: `(N,)` factors on the costs of the items, as a miner gives them; None for 1.

    Returns:
        Scalar float32 tensor, at least 0. A compiled call with a label outside the classes gives nan.

    Raises:
        ValueError: on a parameter out of range, shapes that do not fit
            together, or (eager calls) a label outside the classes.

    Example:
        >>> loss = ArcFaceLoss(num_classes=1)
        >>> float(loss(keras.ops.ones((2, 3)), keras.ops.array([0, 0])))  # nothing to confuse it with
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
        """Find items far from the dominant sub-center of their class, which the paper drops before training again.

        The dominant sub-center of a class is the nearest one of most of its items.

        Args:
            embeddings: `(M, D)` float tensor, of the whole training set.
            labels: `(M,)` integer tensor of class ids.
            angle: largest angle to the dominant sub-center, in degrees, in (0, 180).

        Returns:
            `(M,)` bool tensor, true for outliers, and the `(num_classes,)` int32 indices of the dominant sub-centers.

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
        own = ops.sum(centers * rows[:, None, :], axis=2)
        votes = ops.one_hot(ops.argmax(own, axis=1), self.sub_centers)
        main = ops.cast(ops.argmax(sums_of_classes(votes, labels, self.num_classes), axis=1), "int32")
        to_main = ops.take_along_axis(own, ops.take(main, labels, axis=0)[:, None], axis=1)[:, 0]
        return to_main < math.cos(math.radians(angle)), main

    def _add_margin(self, logits):
        cosines, margin = logits / self.scale, math.radians(self.margin)
        inside = cosines >= -math.cos(margin)  # theta <= pi - m
        turned = cosine_of_sum(cosines, math.cos(margin), math.sin(margin))
        return self.scale * ops.where(inside, turned, cosines - margin * math.sin(margin))
