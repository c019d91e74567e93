"""Trainable class proxies, stored as one weight."""

import math

import keras
import numpy as np
from keras import ops

from anchorage.geometry import cosine_similarities, unit_rows
from anchorage.labels import check_class_labels
from anchorage.vectors import unit_vectors


@keras.saving.register_keras_serializable(package="anchorage")
class ProxyBank(keras.layers.Layer):
    """The proxies of all classes, a trainable matrix of `num_classes * per_class` rows in class order.

    Class c owns the rows `c * per_class` to `(c + 1) * per_class - 1`. The weight is named `proxies`; an optimizer with
    `rate_factors={"proxies": 100.0}` gives it a separate learning rate and no weight decay.

    Args:
        num_classes: number of classes, at least 1.
        per_class: number of proxies per class, at least 1.
        stddev: standard deviation of the normal initializer, at least 0; default `sqrt(2 / rows)`, He's normal
            initializer by fan-out.

    Call arguments:
        embeddings: `(N, D)` float tensor.

    Returns:
        `(N, num_classes * per_class)` cosine similarities of embeddings and proxies.

    Raises:
        ValueError: if `num_classes` or `per_class` is not a positive integer, or `stddev` is negative.

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
            raise ValueError(f"`stddev` must be a finite number, at least 0. Received: stddev={stddev}")
        self.num_classes = int(num_classes)
        self.per_class = int(per_class)
        self.stddev = stddev

    def build(self, embeddings_shape):
        rows = self.num_classes * self.per_class
        stddev = math.sqrt(2.0 / rows) if self.stddev is None else self.stddev
        self.proxies = self.add_weight(
            name="proxies",
            shape=(rows, embeddings_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=stddev),
        )

    def call(self, embeddings):
        return cosine_similarities(embeddings, self.proxies)

    def by_class(self, novel_proxies=None):
        """L2-normalized proxies by class.

        Args:
            novel_proxies: `(M, D)` proxies of additional classes; requires `per_class=1`.

        Returns:
            `(num_classes, per_class, D)` tensor; `(num_classes + M, 1, D)` with novel proxies.

        Raises:
            ValueError: if there are novel proxies and `per_class` is above 1.
        """
        if novel_proxies is None:
            return ops.reshape(unit_rows(self.proxies), (self.num_classes, self.per_class, -1))
        if self.per_class > 1:
            raise ValueError(f"Expected one proxy per class with `novel_proxies`. Received: {self.per_class}")
        return unit_rows(ops.concatenate([self.proxies, novel_proxies], axis=0))[:, None, :]

    def get_config(self):
        config = {"num_classes": self.num_classes, "per_class": self.per_class, "stddev": self.stddev}
        return {**super().get_config(), **config}


def gaps_within_classes(proxies, per_class: int, epsilon: float = 1e-12):
    """Half the mean distance between normalized proxies of a class; SoftTriple's regularizer, 0 once they coincide.

    `sum_c sum_{a < b} sqrt(2 - 2 p_ca.p_cb + epsilon) / (C K (K - 1))` for C classes of K proxies.

    Args:
        proxies: `(C * K, D)` float tensor, in class order.
        per_class: K, at least 2.
        epsilon: keeps the gradient finite where proxies coincide.
    """
    directions = ops.reshape(unit_rows(ops.convert_to_tensor(proxies)), (-1, per_class, proxies.shape[1]))
    squared = ops.relu(2.0 - 2.0 * ops.matmul(directions, ops.transpose(directions, (0, 2, 1))))
    upper = ops.triu(ops.ones((per_class, per_class), dtype=squared.dtype), k=1)
    sums = ops.sum(ops.sqrt(squared + epsilon) * upper, axis=(1, 2))
    return ops.mean(sums) / (per_class * (per_class - 1))


def start_at_class_means(loss: keras.layers.Layer, embeddings, labels, seed: int = 0) -> None:
    """Initialize the proxies of a loss to the mean embeddings of their classes.

    With several proxies per class, the samples of the class are partitioned among them at random, so that the proxies
    start apart. A proxy without samples keeps its initial value. Each mean is scaled to the average norm of the initial
    proxies (most losses use the direction only).

    Args:
        loss: built loss with `num_classes`, and `proxies` of `num_classes * K` rows in class order.
        embeddings: `(M, D)` float array, of all training samples or a subset of each class; normalized first.
        labels: `(M,)` integer array of class ids.
        seed: of the random partition.

    Raises:
        ValueError: if the loss has no such proxies, or shapes or labels do not match.
    """
    classes = getattr(loss, "num_classes", None)
    if not classes or not hasattr(loss, "proxies") or loss.proxies.shape[0] % classes:
        raise ValueError(f"Expected a built loss with proxies for each class. Received: {type(loss).__name__}")
    embeddings, labels = np.asarray(embeddings, "float64"), np.asarray(labels)
    dim = loss.proxies.shape[1]
    if embeddings.shape != (len(labels), dim):
        raise ValueError(
            f"Expected one label per embedding of size {dim}. "
            f"Received: embeddings.shape={embeddings.shape}, labels.shape={labels.shape}"
        )
    check_class_labels(labels, classes)
    per_class = loss.proxies.shape[0] // classes
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    sorted_labels = labels[order]
    position = np.arange(len(order)) - np.searchsorted(sorted_labels, sorted_labels)  # within the class
    sums = np.zeros((classes * per_class, dim))
    np.add.at(sums, sorted_labels * per_class + position % per_class, unit_vectors(embeddings)[order])
    initial = ops.convert_to_numpy(loss.proxies)
    scale = np.mean(np.linalg.norm(initial, axis=1)) or 1.0
    loss.proxies.assign(np.where(np.any(sums, axis=1, keepdims=True), scale * unit_vectors(sums), initial))
