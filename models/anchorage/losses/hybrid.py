"""Hybrid of a pair and a proxy loss: Ebrahimpour, Qian & Beach, WACV 2022, equation 7."""

from collections.abc import Mapping
from typing import Any

import keras

from anchorage.checks import check_not_negative
from anchorage.losses._members import make_member
from anchorage.losses.base import LossLayer

_PAIR = {"name": "multi_similarity", "params": {"alpha": 2.0, "beta": 50.0, "base": 1.0, "mining": False}}
_PROXY = {"name": "multi_proxy_anchor", "params": {"proxies_per_class": 1, "alpha": 32.0, "delta": 0.1}}


@keras.saving.register_keras_serializable(package="anchorage")
class HybridLoss(LossLayer):
    """Relations within the batch from a pair loss, quick convergence from a small share of a proxy loss.

    Formula:

        loss = pair(embeddings, labels) + proxy_weight * proxy(embeddings, labels)

    and, for an encoder with several heads, `head_weight` times the pair loss of each head.

    The defaults are those of the paper, Multi-Similarity and Proxy-Anchor, with the sign in the negative
    exponent of Multi-Similarity as its own authors have it. The paper prints the other sign (mhgl_as_printed):
    `pair={"name": "multi_similarity", "params": {"alpha": 2.0, "beta": 50.0, "base": 1.0, "negative_base": -1.0,
    "mining": False}}`.

    Defaults: 2, 50 and 1 (equation 6), 32 and 0.1 (equation 5) and 0.03 (equation 7), as a reading of the paper by
    others reports them; its text was not open to us.

    Args:
        num_classes: number of training classes, for the members that ask for it.
        pair: the pair loss, `{"name": ..., "params": {...}}`.
        proxy: the proxy loss, written alike.
        proxy_weight: at least 0.
        head_weight: at least 0.

    Call arguments:
        heads: `(N, h, d)` parts of the embeddings, such as the local and the global half.

    Returns:
        Scalar float32 tensor.

    Raises:
        ValueError: on a negative weight, a loss not written as above, or a wrong batch.
        UsageError: on an unknown loss or parameter.

    Example:
        >>> loss = HybridLoss(num_classes=3)
        >>> bool(loss(keras.ops.eye(3), keras.ops.array([0, 1, 2])) > 0)
        True
    """

    takes = ("heads",)

    def __init__(
        self,
        num_classes: int | None = None,
        pair: Mapping[str, Any] | None = None,
        proxy: Mapping[str, Any] | None = None,
        proxy_weight: float = 0.03,
        head_weight: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_not_negative(proxy_weight=proxy_weight, head_weight=head_weight)
        self.num_classes = num_classes
        pair, proxy = _PAIR if pair is None else pair, _PROXY if proxy is None else proxy
        self.pair_loss = make_member(pair, num_classes, self.dtype_policy)
        self.proxy_loss = make_member(proxy, num_classes, self.dtype_policy)
        self.pair = dict(pair)
        self.proxy = dict(proxy)
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
