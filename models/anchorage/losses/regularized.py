"""Any loss, with regularisers of its embeddings and of its proxies added."""

from collections.abc import Mapping
from typing import Any

import keras

from anchorage.checks import check_not_negative
from anchorage.losses._members import make_member
from anchorage.losses.base import LossLayer
from anchorage.registry import create

_LOSS = {"name": "softmax"}
_LP = {"name": "lp"}


@keras.saving.register_keras_serializable(package="anchorage")
class RegularizedLoss(LossLayer):
    """Adds weighted regularisers to a loss.

    Formula:

        loss + embeddings_weight R_e(embeddings) + proxies_weight R_p(proxies)

    Defaults: ours: weights of 1.

    Args:
        loss: any loss, `{"name": ..., "params": {...}}`.
        embeddings_regularizer: a key of `anchorage.regularizers.REGULARIZERS`, `{"name": ..., "params": {...}}`.
        embeddings_weight: at least 0.
        proxies_regularizer: likewise, for a loss that has `proxies`; None for none.
        proxies_weight: at least 0.
        num_classes: number of training classes, for a loss that asks for it.

    Returns:
        Scalar float32 tensor.

    Raises:
        ValueError: on a parameter out of range, a loss without proxies to regularise, or a wrong batch.
        UsageError: on an unknown loss, regulariser or parameter.

    Example:
        >>> loss = RegularizedLoss({"name": "contrastive"}, {"name": "lp"}, embeddings_weight=0.5)
        >>> float(loss(keras.ops.array([[3.0, 4.0]]), keras.ops.array([0])))
        2.5
    """

    def __init__(
        self,
        loss: Mapping[str, Any] = _LOSS,
        embeddings_regularizer: Mapping[str, Any] | None = _LP,
        embeddings_weight: float = 1.0,
        proxies_regularizer: Mapping[str, Any] | None = None,
        proxies_weight: float = 1.0,
        num_classes: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_not_negative(embeddings_weight=embeddings_weight, proxies_weight=proxies_weight)
        self.inner = make_member(loss, num_classes, self.dtype_policy)
        self.on_embeddings = self._make(embeddings_regularizer)
        self.on_proxies = self._make(proxies_regularizer)
        self.loss = dict(loss)
        self.embeddings_regularizer = embeddings_regularizer and dict(embeddings_regularizer)
        self.embeddings_weight = embeddings_weight
        self.proxies_regularizer = proxies_regularizer and dict(proxies_regularizer)
        self.proxies_weight = proxies_weight
        self.num_classes = num_classes

    def _make(self, spec):
        if spec is None:
            return None
        if not isinstance(spec, Mapping) or "name" not in spec or set(spec) - {"name", "params"}:
            raise ValueError(f"Expected a regulariser as {{'name': ..., 'params': {{...}}}}. Received: {spec!r}")
        from anchorage.regularizers import REGULARIZERS  # it shares helpers with the losses

        params = {**(spec.get("params") or {}), "dtype": self.dtype_policy}
        return type(create(REGULARIZERS, spec["name"], spec.get("params"), base=keras.layers.Layer))(**params)

    def build(self, embeddings_shape, labels_shape):
        self.inner(keras.KerasTensor(embeddings_shape), keras.KerasTensor(labels_shape, dtype="int32"))  # weights
        if self.on_proxies is not None and not hasattr(self.inner, "proxies"):
            raise ValueError(f"`proxies_regularizer` needs a loss with proxies. Received: loss={self.loss}")

    def compute(self, embeddings, labels):
        loss = self.inner(embeddings, labels)
        if self.on_embeddings is not None:
            loss = loss + self.embeddings_weight * self.on_embeddings(embeddings)
        if self.on_proxies is not None:
            loss = loss + self.proxies_weight * self.on_proxies(self.inner.proxies)
        return loss
