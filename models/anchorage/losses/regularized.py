"""A loss with regularizers of its embeddings and of its proxies."""

from typing import ClassVar

import keras

from anchorage.checks import check_not_negative
from anchorage.losses._parts import needed, with_dtype
from anchorage.losses.base import LossLayer
from anchorage.losses.softmax import SoftmaxLoss
from anchorage.regularizers import REGULARIZERS, LpRegularizer


@keras.saving.register_keras_serializable(package="anchorage")
class RegularizedLoss(LossLayer):
    """Adds weighted regularizers to a loss.

    Formula:

        loss + embeddings_weight R_e(embeddings) + proxies_weight R_p(proxies)

    Defaults: ours: weights of 1.

    Args:
        loss: any loss, by default `SoftmaxLoss(num_classes)`.
        embeddings_regularizer: one of `anchorage.regularizers`, None for none. If there is no regularizer of proxies
            either, it is `LpRegularizer()`.
        embeddings_weight: at least 0.
        proxies_regularizer: likewise, for a loss that has `proxies`.
        proxies_weight: at least 0.
        num_classes: number of training classes, for the default `loss`.

    Returns:
        Scalar float32 tensor.

    Raises:
        ValueError: on a parameter out of range, a loss without proxies to regularize, or a wrong batch.

    Example:
        >>> from anchorage.losses.contrastive import ContrastiveLoss
        >>> loss = RegularizedLoss(ContrastiveLoss(), LpRegularizer(), embeddings_weight=0.5)
        >>> float(loss(keras.ops.array([[3.0, 4.0]]), keras.ops.array([0])))
        2.5
    """

    parts: ClassVar = {
        "loss": None,
        "embeddings_regularizer": REGULARIZERS,
        "proxies_regularizer": REGULARIZERS,
    }

    def __init__(
        self,
        loss: keras.layers.Layer | None = None,
        embeddings_regularizer: keras.layers.Layer | None = None,
        embeddings_weight: float = 1.0,
        proxies_regularizer: keras.layers.Layer | None = None,
        proxies_weight: float = 1.0,
        num_classes: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_not_negative(embeddings_weight=embeddings_weight, proxies_weight=proxies_weight)
        if embeddings_regularizer is None and proxies_regularizer is None:
            embeddings_regularizer = LpRegularizer()
        self.inner = with_dtype("loss", loss or SoftmaxLoss(needed(num_classes)), self.dtype_policy)
        self.on_embeddings = self._regularizer("embeddings_regularizer", embeddings_regularizer)
        self.on_proxies = self._regularizer("proxies_regularizer", proxies_regularizer)
        self.loss = self.inner
        self.embeddings_regularizer = self.on_embeddings
        self.proxies_regularizer = self.on_proxies
        self.embeddings_weight = embeddings_weight
        self.proxies_weight = proxies_weight
        self.num_classes = num_classes

    def _regularizer(self, name, layer):
        return None if layer is None else with_dtype(name, layer, self.dtype_policy)

    def build(self, embeddings_shape, labels_shape):
        self.inner(keras.KerasTensor(embeddings_shape), keras.KerasTensor(labels_shape, dtype="int32"))  # weights
        if self.on_proxies is not None and not hasattr(self.inner, "proxies"):
            received = type(self.inner).__name__
            raise ValueError(f"`proxies_regularizer` needs a loss with proxies. Received: loss={received}")

    def compute(self, embeddings, labels):
        loss = self.inner(embeddings, labels)
        if self.on_embeddings is not None:
            loss = loss + self.embeddings_weight * self.on_embeddings(embeddings)
        if self.on_proxies is not None:
            loss = loss + self.proxies_weight * self.on_proxies(self.inner.proxies)
        return loss
