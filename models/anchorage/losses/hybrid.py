"""Hybrid of a pair and a proxy loss: Ebrahimpour, Qian & Beach, WACV 2022, equation 7."""

from typing import ClassVar

import keras

from anchorage.checks import check_not_negative
from anchorage.losses._parts import needed, with_dtype
from anchorage.losses.base import LossLayer, serialized
from anchorage.losses.multi_proxy_anchor import MultiProxyAnchorLoss
from anchorage.losses.multi_similarity import MultiSimilarityLoss


@keras.saving.register_keras_serializable(package="anchorage")
class PrintedMultiSimilarityLoss(MultiSimilarityLoss):
    """Multi-Similarity as equation 6 of the paper prints it, with `exp(beta (S_ik + base))` for negatives."""

    _negative_sign = -1.0


@keras.saving.register_keras_serializable(package="anchorage")
class HybridLoss(LossLayer):
    """Adds a small share of a proxy loss, for quick convergence, to a pair loss.

    Formula:

        loss = pair(embeddings, labels) + proxy_weight * proxy(embeddings, labels)

    and, for an encoder with several heads, `head_weight` times the pair loss of each head.

    The paper prints `+ base` in the exponent of the negatives of Multi-Similarity, where the authors of that loss, and
    the default here, have `- base`. The printed form is `pair=PrintedMultiSimilarityLoss(base=1.0, mining=False)`.

    Defaults: 2, 50 and 1 (equation 6), 32 and 0.1 (equation 5) and 0.03 (equation 7), as a reading of the paper by
    others reports them; its text was not open to us.

    Args:
        num_classes: number of training classes, for the default `proxy`.
        pair: any loss, by default `MultiSimilarityLoss(alpha=2.0, beta=50.0, base=1.0, mining=False)`.
        proxy: any loss, by default `MultiProxyAnchorLoss(num_classes, proxies_per_class=1, alpha=32.0, delta=0.1)`.
        proxy_weight: at least 0.
        head_weight: at least 0.

    Call arguments:
        heads: `(N, h, d)` parts of the embeddings, such as the local and the global half.

    Returns:
        Scalar float32 tensor.

    Raises:
        ValueError: on a negative weight, no `num_classes` for the default `proxy`, or a wrong batch.

    Example:
        >>> loss = HybridLoss(num_classes=3)
        >>> bool(loss(keras.ops.eye(3), keras.ops.array([0, 1, 2])) > 0)
        True
    """

    takes = ("heads",)
    parts: ClassVar = {"pair": None, "proxy": None}

    def __init__(
        self,
        num_classes: int | None = None,
        pair: keras.layers.Layer | None = None,
        proxy: keras.layers.Layer | None = None,
        proxy_weight: float = 0.03,
        head_weight: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_not_negative(proxy_weight=proxy_weight, head_weight=head_weight)
        self.num_classes = num_classes
        pair = pair or MultiSimilarityLoss(alpha=2.0, beta=50.0, base=1.0, mining=False)
        proxy = proxy or MultiProxyAnchorLoss(needed(num_classes), proxies_per_class=1, alpha=32.0, delta=0.1)
        # Named as in older files, which hold the weights by these attributes.
        self.pair_loss = with_dtype("pair", pair, self.dtype_policy)
        self.proxy_loss = with_dtype("proxy", proxy, self.dtype_policy)
        self.proxy_weight = proxy_weight
        self.head_weight = head_weight

    @property
    def proxies(self):
        """The proxies of the proxy loss, if it calls them so."""
        return self.proxy_loss.proxies

    def build(self, embeddings_shape, labels_shape, **_):
        for loss in (self.pair_loss, self.proxy_loss):
            if not loss.built:
                loss(keras.KerasTensor(embeddings_shape), keras.KerasTensor(labels_shape, dtype="int32"))

    def compute(self, embeddings, labels, heads=None):
        loss = self.pair_loss(embeddings, labels) + self.proxy_weight * self.proxy_loss(embeddings, labels)
        for place in range(heads.shape[1] if heads is not None and self.head_weight else 0):
            loss = loss + self.head_weight * self.pair_loss(heads[:, place], labels)
        return loss

    def get_config(self):
        parts = {"pair": self.pair_loss, "proxy": self.proxy_loss}
        return {**super().get_config(), **{name: serialized(part) for name, part in parts.items()}}
