"""Trainable stand-ins for classes, held as one weight."""

import math

import keras
import numpy as np
from keras import ops

from anchorage.geometry import cosine_similarities, unit_rows
from anchorage.labels import check_class_labels


@keras.saving.register_keras_serializable(package="anchorage")
class ProxyBank(keras.layers.Layer):
    """`num_classes * per_class` trainable rows, in class order: proxies of class c are rows `c * per_class` on.

    The weight is called `proxies`; an optimizer with `rate_factors={"proxies": 100.0}` gives it a learning
    rate of its own and no weight decay.

    Args:
        num_classes: number of classes, at least 1.
        per_class: proxies of each class, at least 1.
        stddev: standard deviation of the normal initial values, not negative; default `sqrt(2 / rows)`, that
            is He's normal initialiser by fan-out.

    Call arguments:
        embeddings: `(N, D)` float tensor.

    Returns:
        `(N, num_classes * per_class)` cosine similarities of embeddings and proxies.

    Raises:
        ValueError: if `num_classes` or `per_class` is not a whole number from 1 on, or `stddev` is negative.

    Example:
        >>> bank = ProxyBank(num_classes=5, per_class=2)
        >>> tuple(bank(keras.ops.ones((3, 4))).shape)
        (3, 10)
    """

    def __init__(self, num_classes: int, per_class: int = 1, stddev: float | None = None, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        for name, value in {"num_classes": num_classes, "per_class": per_class}.items():
            if not 1 <= value < math.inf or value != int(value):
                raise ValueError(f"`{name}` must be a whole number, at least 1. Received: {name}={value}")
        if stddev is not None and not 0 <= stddev < math.inf:
            raise ValueError(f"`stddev` must be a number, not negative. Received: stddev={stddev}")
        self.num_classes = int(num_classes)
        self.per_class = int(per_class)
        self.stddev = stddev

    def build(self, embeddings_shape):
        rows = self.num_classes * self.per_class
        spread = math.sqrt(2.0 / rows) if self.stddev is None else self.stddev
        self.proxies = self.add_weight(
            name="proxies",
            shape=(rows, embeddings_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=spread),
        )

    def call(self, embeddings):
        return cosine_similarities(embeddings, self.proxies)

    def by_class(self, novel_proxies=None):
        """`(num_classes, per_class, D)` proxies at unit length; with novel ones `(num_classes + M, 1, D)`.

        Args:
            novel_proxies: `(M, D)` proxies of further classes; needs `per_class=1`.

        Raises:
            ValueError: if novel proxies meet several a class.
        """
        if novel_proxies is None:
            return ops.reshape(unit_rows(self.proxies), (self.num_classes, self.per_class, -1))
        if self.per_class > 1:
            raise ValueError(f"Expected one proxy a class where there are novel ones. Received: {self.per_class}")
        return unit_rows(ops.concatenate([self.proxies, novel_proxies], axis=0))[:, None, :]

    def get_config(self):
        config = {"num_classes": self.num_classes, "per_class": self.per_class, "stddev": self.stddev}
        return {**super().get_config(), **config}


def gaps_within_classes(proxies, per_class: int, inside_root: float = 1e-12):
    """Half the mean distance of two proxies of one class at unit length: small once needless ones have merged.

    `sum_k sum_{a < b} sqrt(2 - 2 p_ka.p_kb + inside_root) / (C K (K - 1))` for C classes of K proxies.

    Args:
        proxies: `(C * K, D)` float tensor, in class order.
        per_class: K, at least 2.
        inside_root: keeps the gradient finite where proxies meet.
    """
    directions = ops.reshape(unit_rows(ops.convert_to_tensor(proxies)), (-1, per_class, proxies.shape[1]))
    squared = ops.relu(2.0 - 2.0 * ops.matmul(directions, ops.transpose(directions, (0, 2, 1))))
    upper = ops.triu(ops.ones((per_class, per_class), dtype=squared.dtype), k=1)
    each = ops.sum(ops.sqrt(squared + inside_root) * upper, axis=(1, 2))
    return ops.mean(each) / (per_class * (per_class - 1))


def start_at_class_means(loss: keras.layers.Layer, embeddings, labels, seed: int = 0) -> None:
    """Put the proxies of a loss where the classes are: one pass over the training data before the training.

    With several proxies a class its items are dealt out among them at random, so that they start apart. A class that
    has no items, or fewer than proxies, keeps the initial values of those that got none. A proxy keeps the direction
    of the mean and the length that proxies of this loss had on average (only the direction counts in most losses).

    Args:
        loss: built, with `num_classes` and `proxies` of `num_classes * K` rows in class order.
        embeddings: `(M, D)` float array, of all training items or of some of each class; taken at unit length.
        labels: `(M,)` integer array of class ids.
        seed: of the dealing.

    Raises:
        ValueError: if the loss has no such proxies, or shapes or labels do not fit.
    """
    count = getattr(loss, "num_classes", None)
    if not count or not hasattr(loss, "proxies") or loss.proxies.shape[0] % count:
        raise ValueError(f"Expected a built loss with proxies for each class. Received: {type(loss).__name__}")
    embeddings, labels = np.asarray(embeddings, "float64"), np.asarray(labels)
    dim = loss.proxies.shape[1]
    if embeddings.shape != (len(labels), dim):
        raise ValueError(
            f"Expected one label per embedding of size {dim}. "
            f"Received: embeddings.shape={embeddings.shape}, labels.shape={labels.shape}"
        )
    check_class_labels(labels, count)
    each = loss.proxies.shape[0] // count
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    sorted_labels = labels[order]
    place = np.arange(len(order)) - np.searchsorted(sorted_labels, sorted_labels)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    units = embeddings / np.where(lengths > 0, lengths, 1.0)
    sums = np.zeros((count * each, dim))
    np.add.at(sums, sorted_labels * each + place % each, units[order])
    found = np.linalg.norm(sums, axis=1, keepdims=True)
    before = ops.convert_to_numpy(loss.proxies)
    length = np.mean(np.linalg.norm(before, axis=1)) or 1.0
    loss.proxies.assign(np.where(found > 0, sums / np.where(found > 0, found, 1.0) * length, before))
