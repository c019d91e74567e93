"""P2SGrad as a loss: Zhang et al., CVPR 2019; the mean squared error form of Wang & Yamagishi, Interspeech 2021."""

import keras
from keras import ops

from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import Reducer, check_any_reducer, reduce_costs
from anchorage.proxies.bank import ProxyBank


@keras.saving.register_keras_serializable(package="anchorage")
class P2SGradLoss(LossLayer):
    """Wants the cosine with the own class direction to be 1, and with the others 0; there is nothing to tune.

    Formula, with theta the angle between embedding i and class direction k, K classes:

        loss_i = 1/K sum_k (cos theta_ik - [k = label_i])^2

    Defaults: the loss has nothing to set.

    Args:
        num_classes: number of training classes K; labels lie in `0 .. num_classes - 1`.
        reducer: how the costs of the rows become one, see `anchorage.pairs.reducers`.

    Returns:
        Scalar float32 tensor, at least 0. A compiled call with a label outside the classes gives nan.

    Raises:
        ValueError: on shapes that do not fit together or (eager calls) a label outside the classes.

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
        columns = ops.arange(self.num_classes, dtype="int32")
        target = ops.cast(columns[None, :] == labels[:, None], cosines.dtype)
        costs = ops.mean(ops.square(cosines - target), axis=1)
        return reduce_costs(costs, ops.ones_like(costs, dtype="bool"), self.reducer, labels)
