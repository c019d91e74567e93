"""P2SGrad as a loss: Zhang et al., CVPR 2019; the mean squared error form of Wang & Yamagishi, Interspeech 2021."""

import keras
from keras import ops

from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import Reducer, check_any_reducer, reduce_costs
from anchorage.proxies.bank import ProxyBank


@keras.saving.register_keras_serializable(package="anchorage")
class P2SGradLoss(LossLayer):
    """Regresses the cosine to the target class weight to 1 and the others to 0; has no hyperparameters.

    Formula, with theta the angle between embedding i and class weight k, K classes:

        loss_i = 1/K sum_k (cos theta_ik - [k = label_i])^2

    Defaults: none; the loss has no hyperparameters.

    Args:
        num_classes: number of training classes K; labels lie in `0 .. num_classes - 1`.
        reducer: reduction of the per-sample losses, see `anchorage.pairs.reducers`.

    Returns:
        Non-negative float32 scalar; NaN if a compiled call receives a label out of range.

    Raises:
        ValueError: if shapes are incompatible or (eager calls) a label is out of range.

    Example:
        >>> loss = P2SGradLoss(num_classes=3)
        >>> bool(loss(keras.ops.eye(3), keras.ops.array([0, 1, 2])) > 0)
        True
    """

    dense_labels = True

    def __init__(self, num_classes: int, reducer: Reducer = "mean", **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.reducer = check_any_reducer(reducer)
        self.bank = ProxyBank(num_classes, stddev=1.0, dtype=self.dtype_policy)

    @property
    def proxies(self):
        """The `(num_classes, D)` weight."""
        return self.bank.proxies

    def build(self, embeddings_shape, labels_shape):
        self.bank.build(embeddings_shape)

    def compute(self, embeddings, labels):
        cosines = self.bank(embeddings)
        classes = ops.arange(self.num_classes, dtype="int32")
        one_hot = ops.cast(classes[None, :] == labels[:, None], cosines.dtype)
        costs = ops.mean(ops.square(cosines - one_hot), axis=1)
        return reduce_costs(costs, ops.ones_like(costs, dtype="bool"), self.reducer, labels)
