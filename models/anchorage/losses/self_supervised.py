"""Self-supervised loss over two views of every item: Chen et al., ICML 2020, with NT-Xent by default."""

from typing import ClassVar

import keras
from keras import ops

from anchorage.losses._parts import check_compares, with_dtype
from anchorage.losses.base import LossLayer
from anchorage.losses.nt_xent import NTXentLoss
from anchorage.pairs.references import References
from anchorage.pairs.walk import ClassMembers


@keras.saving.register_keras_serializable(package="anchorage")
class SelfSupervisedLoss(LossLayer):
    """Treats each item as a class of its own: its two views are positives, all other rows negatives.

    With `symmetric=True` every row is an anchor and compared with all other rows. With `symmetric=False` only the first
    view of every item is an anchor, compared with the second views; a loss that averages over all rows counts the other
    rows as 0.

    Defaults: symmetric, `SelfSupervisedLoss` of pytorch-metric-learning 2.9 and SimCLR.

    Args:
        loss: a loss over pairs, by default `NTXentLoss()`.
        symmetric: see above.

    Call arguments:
        embeddings: `(N, D)` float tensor, the views in any order.
        labels: `(N,)` integer tensor, the item of each row. The first row of an item is its first view, the next its
            second.

    Returns:
        Scalar float32 tensor, the value of `loss`.

    Raises:
        ValueError: if `loss` is not a loss over pairs, or on shapes that do not fit together.

    Example:
        >>> from anchorage.losses.nt_xent import NTXentLoss
        >>> loss = SelfSupervisedLoss(NTXentLoss(temperature=1.0))
        >>> round(float(loss(keras.ops.ones((4, 2)), keras.ops.array([0, 1, 0, 1]))), 4)  # log 3
        1.0986
    """

    parts: ClassVar = {"loss": None}

    def __init__(self, loss: keras.layers.Layer | None = None, symmetric: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.inner = with_dtype("loss", loss or NTXentLoss(), self.dtype_policy)
        check_compares(self.inner)
        self.loss = self.inner
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
