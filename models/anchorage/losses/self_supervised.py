"""A loss over two views of every item, without labels: Chen et al., ICML 2020, with NT-Xent inside."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from anchorage.losses._wrapped import make_pair_loss
from anchorage.losses.base import LossLayer
from anchorage.pairs.references import References
from anchorage.pairs.walk import ClassMembers

_LOSS = {"name": "nt_xent"}


@keras.saving.register_keras_serializable(package="anchorage")
class SelfSupervisedLoss(LossLayer):
    """Takes the number of an item for its class: its two views belong together, all else does not.

    With `symmetric` every row is an anchor, held against all other rows. Without, the first view of every item
    is an anchor, held against the second views alone; a loss that averages over all rows counts the others as 0.

    Defaults: symmetric, `SelfSupervisedLoss` of pytorch-metric-learning 2.9 and SimCLR.

    Args:
        loss: a loss over pairs, `{"name": ..., "params": {...}}`.
        symmetric: see above.

    Call arguments:
        embeddings: `(N, D)` float tensor, the views in any order.
        labels: `(N,)` integer tensor, the number of the item a row is a view of. The first row with a number is the
            first view, the next the second.

    Returns:
        Scalar float32 tensor, what the inner loss gives.

    Raises:
        ValueError: if `loss` is no loss over pairs, or on shapes that do not fit together.
        UsageError: on an unknown loss or parameter.

    Example:
        >>> loss = SelfSupervisedLoss(loss={"name": "nt_xent", "params": {"temperature": 1.0}})
        >>> round(float(loss(keras.ops.ones((4, 2)), keras.ops.array([0, 1, 0, 1]))), 4)  # log 3
        1.0986
    """

    def __init__(self, loss: Mapping[str, Any] = _LOSS, symmetric: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.inner = make_pair_loss(loss, self.dtype_policy)
        self.loss = dict(loss)
        self.symmetric = symmetric

    def compute(self, embeddings, labels):
        if self.symmetric:
            return self.inner(embeddings, labels)
        place = ClassMembers(labels).place
        labels = ops.convert_to_tensor(labels)
        across = ops.logical_and((place == 0)[:, None], (place == 1)[None, :])
        same = labels[:, None] == labels[None, :]
        masks = ops.logical_and(across, same), ops.logical_and(across, ops.logical_not(same))
        return self.inner(embeddings, labels, references=References(*masks))
