"""Regularizers of embeddings and proxies: layers that map a matrix of rows to a scalar.

Definitions follow pytorch-metric-learning; each docstring cites its paper.
"""

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_positive
from anchorage.geometry import dot_products, lowest, unit_rows
from anchorage.proxies.bank import gaps_within_classes

_TINY = 1e-12


class Regularizer(keras.layers.Layer):
    """Base class of regularizers.

    Call arguments:
        rows: `(N, D)` float tensor: the embeddings of a batch or the proxies of a loss, not normalized.

    Returns:
        Scalar float32 tensor.
    """

    names: tuple[str, ...] = ()

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.built = True

    def get_config(self):
        return {**super().get_config(), **{name: getattr(self, name) for name in self.names}}


@keras.saving.register_keras_serializable(package="anchorage")
class LpRegularizer(Regularizer):
    """Mean of `|x|_p^power` over the rows.

    Args:
        p: order of the norm, at least 1.
        power: exponent of the norm, positive.

    Example:
        >>> float(LpRegularizer()(keras.ops.array([[3.0, 4.0], [0.0, 1.0]])))
        3.0
    """

    names = ("p", "power")

    def __init__(self, p: float = 2, power: float = 1, **kwargs):
        super().__init__(**kwargs)
        if p < 1:
            raise ValueError(f"`p` must be at least 1. Received: p={p}")
        check_positive(power=power)
        self.p = p
        self.power = power

    def call(self, rows):
        total = ops.sum(ops.power(ops.maximum(ops.absolute(rows), _TINY), self.p), axis=1)
        return ops.mean(ops.power(total, self.power / self.p))


@keras.saving.register_keras_serializable(package="anchorage")
class ZeroMeanRegularizer(Regularizer):
    """Mean over the rows of `|sum_d x_d|`: the coordinates of a row should sum to zero.

    Example:
        >>> float(ZeroMeanRegularizer()(keras.ops.array([[3.0, -4.0], [1.0, 2.0]])))
        2.0
    """

    def call(self, rows):
        return ops.mean(ops.absolute(ops.sum(rows, axis=1)))


@keras.saving.register_keras_serializable(package="anchorage")
class CenterInvariantRegularizer(Regularizer):
    """Mean over the rows of `1/4 (|x|^2 - mean |x|^2)^2`: equal norms (Wu et al., ICCV Workshops 2017).

    Example:
        >>> float(CenterInvariantRegularizer()(keras.ops.array([[1.0, 0.0], [0.0, 3.0]])))  # 4^2 / 4
        4.0
    """

    def call(self, rows):
        squared = ops.sum(ops.square(rows), axis=1)
        return ops.mean(ops.square(squared - ops.mean(squared))) / 4.0


@keras.saving.register_keras_serializable(package="anchorage")
class RegularFaceRegularizer(Regularizer):
    """Mean cosine similarity of each row and its nearest other row (Zhao, Xu & Cheng, CVPR 2019, eq. 3).

    Example:
        >>> float(RegularFaceRegularizer()(keras.ops.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])))
        0.5
    """

    def call(self, rows):
        rows = unit_rows(rows)
        cosines = dot_products(rows, rows)
        index = ops.arange(ops.shape(rows)[0])
        others = index[:, None] != index[None, :]
        nearest = ops.max(ops.where(others, cosines, lowest(cosines)), axis=1)
        return ops.mean(ops.where(ops.any(others, axis=1), nearest, 0.0))


@keras.saving.register_keras_serializable(package="anchorage")
class SparseCentersRegularizer(Regularizer):
    """Half the mean distance between centers of a class, which merges superfluous ones (Qian et al., ICCV 2019, eq. 8).

    `sum_k sum_{j < l} sqrt(2 - 2 cos(w_kj, w_kl)) / (K C (C - 1))` for K classes of C centers, rows in class order.

    Args:
        centers_per_class: C, at least 2.

    Example:
        >>> float(SparseCentersRegularizer(2)(keras.ops.array([[1.0, 0.0], [-1.0, 0.0]])))
        1.0
    """

    names = ("centers_per_class",)

    def __init__(self, centers_per_class: int, **kwargs):
        super().__init__(**kwargs)
        check_at_least_one(centers_per_class=centers_per_class)
        if centers_per_class < 2:
            raise ValueError(f"`centers_per_class` must be at least 2. Received: centers_per_class={centers_per_class}")
        self.centers_per_class = centers_per_class

    def call(self, rows):
        return gaps_within_classes(rows, self.centers_per_class)


REGULARIZERS: dict[str, type[Regularizer]] = {
    "center_invariant": CenterInvariantRegularizer,
    "lp": LpRegularizer,
    "regular_face": RegularFaceRegularizer,
    "sparse_centers": SparseCentersRegularizer,
    "zero_mean": ZeroMeanRegularizer,
}

__all__ = [
    "REGULARIZERS",
    "CenterInvariantRegularizer",
    "LpRegularizer",
    "RegularFaceRegularizer",
    "Regularizer",
    "SparseCentersRegularizer",
    "ZeroMeanRegularizer",
]
