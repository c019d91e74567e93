"""Ensemble of losses with learned weights: Zabihzadeh, Alitbi & Mousavirad, MTAP 2023, equations 8 and 11."""

from collections.abc import Sequence
from typing import ClassVar

import keras
import numpy as np
from keras import ops

from anchorage.checks import check_not_negative
from anchorage.geometry import weighted_concatenation
from anchorage.losses._parts import needed, with_dtype
from anchorage.losses.base import LossLayer
from anchorage.losses.proxy_nca import ProxyNCALoss
from anchorage.losses.softmax import SoftmaxLoss
from anchorage.losses.triplet import TripletLoss

_PRIOR = (2.0, 1.0, 3.0)  # of the members by default
_FARTHEST = 2.0  # distance of opposite unit vectors
_LEAST_MEAN = 1e-8
WEIGHTINGS = ("squares", "softmax", "fixed")
_INSIDE_NORM = 1e-6  # added to each coordinate of a difference, as published


@keras.saving.register_keras_serializable(package="anchorage")
class EnsembleLoss(LossLayer):
    """Weighted sum of several losses, brought to a common scale, with learned weights.

    Formula, for m losses `l_i` with running means `L_i` of `|l_i|` (constant in the gradient) and `L = mean_i L_i`:

        w_i = c_i^2 + 1 / (4 m),    c trainable, at first sqrt(prior_i / sum prior - 1 / (4 m))
        loss = sum_i w_i l_i L / L_i + 100 eta (sum_i w_i - 1)^2 + diversity_weight max(0, 2 - D)

    with `D` the mean distance between the heads of an item, for encoders with one head per member. The running mean
    is the average over all batches so far, including this one unless `training=False`, and excluding batches whose
    losses are not finite. In the paper losses are not negative, so `|l_i| = l_i`; the absolute value is ours: a
    negative mean, possible with `proxy_nca` in its paper's form, would flip the sign of the other members. Learned
    weights still drift towards such a loss. A small learning rate for `coefficients` (`rate_factors`) slows this, and
    suits the stiff penalty.

    `weighting` has two other forms, both ours: `"softmax"` uses `w = softmax(c)`, which starts at the shares of `prior`
    and needs no penalty; `"fixed"` is the plain sum `sum_i prior_i l_i`, without scaling or learned weights. With
    `MinedLoss` members it is what pytorch-metric-learning calls `MultipleLosses`.

    The published demo has `BinomialDevianceLoss()` as a fourth member, in the third place, with `prior=[2, 1, 2, 3]`.

    Defaults: `demo_WEDL_run_best.py` of the published code (d-zabihzadeh/DML-Ensemble-of-Losses) and its stored
    results, without its third member.

    Args:
        members: losses; by default a classifier, a triplet loss and Proxy-NCA.
        prior: one positive number per member, None for ones; with `"squares"` each share must be at least `1 / (4 m)`.
        num_classes: number of training classes, for the default members.
        eta: stiffness of the penalty, at least 0.
        diversity_weight: at least 0.
        weighting: see above.

    Call arguments:
        heads: `(N, m, d)`, one embedding for each member; without it all members get `embeddings`.
        compressed: `(N, e)`; adds `compression_cost` against the concatenated heads, each times the root of its
            weight, or against `embeddings` if there are no heads. These get no gradient from it.
        training: `False` leaves the running means unchanged.

    Returns:
        Scalar float32 tensor.

    Raises:
        ValueError: on a parameter out of range, no `num_classes` for the default members, or a wrong batch.

    Example:
        >>> from anchorage.losses.contrastive import ContrastiveLoss
        >>> from anchorage.losses.multi_similarity import MultiSimilarityLoss
        >>> loss = EnsembleLoss([ContrastiveLoss(), MultiSimilarityLoss()])
        >>> float(loss(keras.ops.eye(3), keras.ops.array([0, 1, 2])))
        0.0
    """

    takes = ("heads", "compressed", "training")
    parts: ClassVar = {"members": None}

    def __init__(
        self,
        members: Sequence[keras.layers.Layer] | None = None,
        prior: Sequence[float] | None = None,
        num_classes: int | None = None,
        eta: float = 100.0,
        diversity_weight: float = 0.1,
        weighting: str = "squares",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_not_negative(eta=eta, diversity_weight=diversity_weight)
        if weighting not in WEIGHTINGS:
            raise ValueError(f"`weighting` must be one of {list(WEIGHTINGS)}. Received: weighting={weighting!r}")
        if members is None:
            members, prior = _default_members(needed(num_classes)), prior or _PRIOR
        self.losses_of_members = [with_dtype("members", member, self.dtype_policy) for member in members]
        self.members = self.losses_of_members
        if not self.members:
            raise ValueError("`members` must name at least one loss. Received: members=[]")
        self.prior = None if prior is None else list(prior)
        self.num_classes = num_classes
        self.eta = eta
        self.diversity_weight = diversity_weight
        self.weighting = weighting
        self.floor = 1.0 / (4 * len(self.members))
        self._prior = self.prior or [1.0] * len(self.members)
        if len(self._prior) != len(self.members) or not all(part > 0 for part in self._prior):
            raise ValueError(f"Expected {len(self.members)} numbers in `prior`, above 0. Received: prior={prior}")
        self._first = np.log(np.divide(self._prior, np.sum(self._prior))).tolist()
        if weighting == "squares":
            self._first = first_coefficients(self._prior)

    def build(self, embeddings_shape, labels_shape=None, **_):
        if self.weighting == "fixed":
            return
        shape = (len(self.members),)
        self.coefficients = self.add_weight(
            name="coefficients", shape=shape, initializer=lambda shape, dtype=None: ops.array(self._first, dtype=dtype)
        )
        self.means = self.add_weight(name="means", shape=shape, initializer="zeros", trainable=False)
        self.batches = self.add_weight(name="batches", shape=(), initializer="zeros", trainable=False)

    def compute(self, embeddings, labels, heads=None, compressed=None, training=None):
        if heads is not None and heads.shape[1] != len(self.members):
            raise ValueError(f"Expected one head for each of {len(self.members)} members. Received: {heads.shape[1]}")
        values = ops.stack(
            [
                loss(embeddings if heads is None else heads[:, place], labels)
                for place, loss in enumerate(self.losses_of_members)
            ]
        )
        total = self.total(values, None if self.weighting == "fixed" else self._updated_means(values, training))
        if heads is not None:
            total = total + self.diversity_weight * lack_of_diversity(heads)
        if compressed is not None:
            whole = embeddings if heads is None else weighted_concatenation(heads, self.weights_of_members())
            total = total + compression_cost(compressed, ops.stop_gradient(whole))
        return total

    def _updated_means(self, values, training):
        means = ops.convert_to_tensor(self.means)
        if training is not False:
            sizes = ops.abs(ops.stop_gradient(values))
            whole = ops.all(ops.isfinite(sizes))
            means = ops.where(whole, means + (sizes - means) / (self.batches + 1.0), means)
            self.batches.assign_add(ops.cast(whole, self.batches.dtype))
            self.means.assign(means)
        return means

    def weights_of_members(self):
        """The `(m,)` weights; with `"squares"` each is at least `1 / (4 m)`."""
        if self.weighting == "fixed":
            return ops.convert_to_tensor(self._prior, dtype=self.compute_dtype)
        if self.weighting == "softmax":
            return ops.softmax(self.coefficients)
        return ops.square(self.coefficients) + self.floor

    def total(self, values, means):
        """Weighted sum of the members' values, scaled by their means, plus the penalty."""
        weights = self.weights_of_members()
        if self.weighting == "fixed":
            return ops.sum(weights * values)
        # The scale of a member that was always 0 is unknown.
        sizes = ops.where(means > _LEAST_MEAN, ops.mean(means) / ops.maximum(means, _LEAST_MEAN), 1.0)
        total = ops.sum(weights * values * ops.stop_gradient(sizes))
        if self.weighting == "softmax":
            return total
        return total + 100.0 * self.eta * ops.square(ops.sum(weights) - 1.0)


def _default_members(num_classes: int) -> list[keras.layers.Layer]:
    return [
        SoftmaxLoss(num_classes, label_smoothing=0.15),
        TripletLoss(margin=1.0, mining="semi_hard", miner_margin=0.1),
        ProxyNCALoss(num_classes, scale_x=1.0, include_positive=True, label_smoothing=0.1),
    ]


def first_coefficients(prior: Sequence[float]) -> list[float]:
    """Initial values `c` whose weights `c^2 + 1 / (4 m)` are the shares of `prior`.

    Raises:
        ValueError: if a share is below `1 / (4 m)`.
    """
    shares = np.asarray(prior, "float64") / np.sum(prior)
    floor = 1.0 / (4 * len(shares))
    if not np.all(shares >= floor):
        raise ValueError(f"`prior` must give each loss at least a share of {floor:.4f}. Received: prior={list(prior)}")
    return np.sqrt(shares - floor).tolist()


def lack_of_diversity(heads):
    """2 minus the mean distance between the `(N, m, d)` heads of an item, in [0, 2] for unit rows."""
    count = heads.shape[1]
    gaps = [
        ops.mean(ops.sqrt(ops.sum(ops.square(heads[:, i] - heads[:, j] + _INSIDE_NORM), axis=-1)))
        for i in range(count)
        for j in range(i + 1, count)
    ]
    return ops.relu(_FARTHEST - sum(gaps) / max(len(gaps), 1)) if gaps else ops.sum(heads) * 0.0


def compression_cost(compressed, embeddings):
    """Distortion of the squared distances of `embeddings` (N, D) by `compressed` (N, e), up to a common scale."""
    shares = []
    for rows in (compressed, embeddings):
        lengths = ops.sum(ops.square(rows), axis=1)
        squared = lengths[:, None] + lengths[None, :] - 2.0 * ops.matmul(rows, ops.transpose(rows))
        squared = ops.relu(squared)
        shares.append(squared / ops.maximum(ops.sum(squared), _LEAST_MEAN))
    apart = ops.sum(ops.square(shares[0] - shares[1]))
    count = ops.cast(ops.shape(compressed)[0], compressed.dtype)
    return ops.square(count) * ops.sqrt(ops.maximum(apart, 1e-16))
