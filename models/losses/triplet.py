"""Triplet loss: Schroff et al., CVPR 2015, eq. 1-4; batch-hard: Hermans et al., arXiv 1703.07737, 2017, eq. 5."""

import math

import keras
from keras import ops

from models.geometry import find_measure, squared_distances
from models.losses._checks import check_acute
from models.losses._pairs import compare
from models.losses._positives import mean_of_hinges, reduce_over_positives, rows_from_positives
from models.losses._reduce import Reducer, check_any_reducer, reduce_costs

MINING = ("all", "angular", "batch_hard", "easy", "hard", "margin", "nearest_semi_hard", "semi_hard")


@keras.saving.register_keras_serializable(package="anchorage")
class TripletLoss(keras.layers.Layer):
    """Wants each anchor nearer to its own class than to any other, by a margin.

    Formula, over triplets (a, p, n) with p of the label of a and n of another one:

        loss_apn = max(0, d_ap - d_an + margin)      or softplus of the same with `smooth`

    `mining` says which triplets count:

    - `"all"`: every one.
    - `"semi_hard"`: those with `0 < d_an - d_ap <= miner_margin`.
    - `"hard"`: those with `d_an <= d_ap`.
    - `"margin"`: those with `d_an - d_ap <= miner_margin`, hard and semi-hard; `"easy"`: all others.
    - `"angular"`: those where n sees a and p under a wide angle: `atan(|a - p| / (2 |n - c|)) > angle`, with c midway
      between a and p and Euclidean lengths (pytorch-metric-learning's `AngularMiner`).
    - `"nearest_semi_hard"`: one n for each ordered pair (a, p), the nearest with `d_an > d_ap`, or else the
      farthest. With `margin=1.0`, `reducer="mean"` and `normalize=False` it is what TensorFlow Addons calls
      `TripletSemiHardLoss`.
    - `"batch_hard"`: one for each anchor, its farthest positive and its nearest negative.

    Memory grows with the square of the batch, never with its cube.

    Defaults: those of pytorch-metric-learning 2.9; FaceNet has the margin 0.2 on squared distances.

    Args:
        margin: least wanted difference of the two distances, in their units; at least 0.
        mining: see above.
        miner_margin: width of the semi-hard band, positive; for `"semi_hard"`, `"margin"` and `"easy"`.
        angle: in degrees, in (0, 90); for `"angular"`.
        distance: `"euclidean"`, `"squared_euclidean"`, `"manhattan"`, `"snr"`, `"cosine"` or `"dot"`;
            similarities are taken with the sign changed.
        smooth: softplus in place of the hinge.
        swap: measure n from the nearer of a and p; not with `"batch_hard"`. Distances within a memory carry no
            gradient.
        reducer: how the costs of the triplets become one, see `models.losses._reduce`.
        normalize: bring the rows to unit length first.

    Call arguments:
        embeddings: `(N, D)` float tensor.
        labels: `(N,)` integer tensor of class ids.
        references: what a wrapper hands over; None compares the batch with itself.

    Returns:
        Scalar float32 tensor, at least 0; 0 for a batch without triplets.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.
        TypeError: if `labels` are not integers.

    Example:
        >>> loss = TripletLoss(margin=0.5, normalize=False)
        >>> float(loss(keras.ops.array([[0.0], [1.0], [1.25]]), keras.ops.array([3, 3, 8])))
        0.75
    """

    def __init__(
        self,
        margin: float = 0.05,
        mining: str = "all",
        miner_margin: float = 0.2,
        angle: float = 20.0,
        distance: str = "euclidean",
        smooth: bool = False,
        swap: bool = False,
        reducer: Reducer = "avg_non_zero",
        normalize: bool = True,
        **kwargs,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        if mining not in MINING:
            raise ValueError(f"`mining` must be one of {list(MINING)}. Received: mining={mining!r}")
        if margin < 0:
            raise ValueError(f"`margin` must not be negative. Received: margin={margin}")
        if miner_margin <= 0:
            raise ValueError(f"`miner_margin` must be positive. Received: miner_margin={miner_margin}")
        check_acute(angle=angle)
        if swap and mining == "batch_hard":
            raise ValueError("`swap` has no meaning with mining='batch_hard'. Received: swap=True")
        self._measure = find_measure(distance)
        self.margin = margin
        self.mining = mining
        self.miner_margin = miner_margin
        self.angle = angle
        self.distance = distance
        self.smooth = smooth
        self.swap = swap
        self.reducer = check_any_reducer(reducer)
        self.normalize = normalize

    def call(self, embeddings, labels, references=None):
        pairs = compare(embeddings, labels, references, self.normalize)
        distances = self._matrix(pairs.rows, pairs.columns)
        if self.mining == "batch_hard":
            return self._batch_hard(distances, labels, pairs)
        positives = None if references is None else pairs.positives
        if self.mining == "all" and self.reducer == "avg_non_zero" and not self.smooth and not self.swap:
            return mean_of_hinges(distances, labels, pairs.negatives, self.margin, positives)
        wide = self._wide_angles(pairs) if self.mining == "angular" else None
        return reduce_over_positives(
            distances,
            labels,
            lambda slot, d: self._triplets(slot, d, pairs, wide),
            self.reducer,
            positives=positives,
            whole=self.swap,
        )

    def _matrix(self, rows, columns):
        return self._measure.sign * self._measure.matrix(rows, columns)

    def _triplets(self, slot, distances, pairs, wide):
        """Costs of one positive of each anchor against the negatives, which of them count, and their derivative."""
        negatives = slot.take(pairs.negatives)
        chosen = wide(slot) if wide else self._select(slot.value, distances, negatives)
        chosen = ops.logical_and(ops.logical_and(chosen, negatives), slot.present[:, None])
        from_positive = rows_from_positives(slot, distances, pairs, self._matrix) if self.swap else distances
        gap = slot.value + self.margin - ops.minimum(distances, from_positive)

        def derivative(weights):
            slope = weights * (ops.sigmoid(gap) if self.smooth else ops.cast(gap > 0, gap.dtype))
            slopes = slot.here * slot.add_up(slope)[:, None] - slope
            if not self.swap:
                return slopes
            moved = ops.where(from_positive < distances, slope, ops.zeros_like(slope))
            return slopes + (moved - slot.back(moved) if pairs.columns is pairs.rows else moved)

        return ops.softplus(gap) if self.smooth else ops.relu(gap), chosen, derivative

    def _select(self, d_ap, distances, negatives):
        if self.mining == "all":
            return negatives
        if self.mining == "hard":
            return distances <= d_ap
        if self.mining == "margin":
            return distances - d_ap <= self.miner_margin
        if self.mining == "easy":
            return distances - d_ap > self.miner_margin
        if self.mining == "semi_hard":
            return ops.logical_and(distances > d_ap, distances - d_ap <= self.miner_margin)
        beyond = ops.logical_and(negatives, distances > d_ap)
        nearest = ops.argmin(ops.where(beyond, distances, float("inf")), axis=1)
        farthest = ops.argmax(ops.where(negatives, distances, float("-inf")), axis=1)
        chosen = ops.where(ops.any(beyond, axis=1), nearest, farthest)
        return chosen[:, None] == ops.arange(ops.shape(distances)[1], dtype=chosen.dtype)[None, :]

    def _wide_angles(self, pairs):
        """Function of a slot that says which negatives see anchor and positive under a wide angle."""
        squared = ops.stop_gradient(squared_distances(pairs.rows, pairs.columns))

        def wide(slot):
            d_an = slot.take(squared)
            d_ap = ops.take_along_axis(d_an, slot.index[:, None], axis=1)
            return wide_angles(d_ap, d_an, rows_from_positives(slot, squared, pairs, squared_distances), self.angle)

        return wide

    def _batch_hard(self, distances, labels, pairs):
        farthest = ops.max(ops.where(pairs.positives, distances, float("-inf")), axis=1)
        nearest = ops.min(ops.where(pairs.negatives, distances, float("inf")), axis=1)
        whole = ops.logical_and(ops.any(pairs.positives, axis=1), ops.any(pairs.negatives, axis=1))
        gap = ops.where(whole, farthest - nearest, ops.zeros_like(farthest)) + self.margin
        return reduce_costs(ops.softplus(gap) if self.smooth else ops.relu(gap), whole, self.reducer, labels)

    def get_config(self):
        names = ("margin", "mining", "miner_margin", "angle", "distance", "smooth", "swap", "reducer", "normalize")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def wide_angles(d_ap, d_an, d_pn, angle: float):
    """Where `atan(|a - p| / (2 |n - c|))` is above `angle`, in degrees, with c midway between a and p.

    Args:
        d_ap: squared Euclidean distances, like the next two; any shapes that fit together.
        d_an: see above.
        d_pn: see above.
        angle: in (0, 90).
    """
    square = math.tan(math.radians(angle)) ** 2
    # 4 |n - c|^2 = 2 |a - n|^2 + 2 |p - n|^2 - |a - p|^2
    return d_ap * (1.0 + square) > 2.0 * square * (d_an + d_pn)
