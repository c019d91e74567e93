"""Triplet loss: Schroff et al., CVPR 2015, eq. 1-4; batch-hard: Hermans et al., arXiv 1703.07737, 2017, eq. 5."""

import keras
from keras import ops

from anchorage.checks import check_acute, check_not_negative, check_positive
from anchorage.geometry import find_measure, squared_distances
from anchorage.losses.base import LossLayer
from anchorage.mining.rules import wide_angles
from anchorage.pairs.positives import mean_of_hinges, mean_of_softplus, reduce_over_positives, rows_from_positives
from anchorage.pairs.reducers import Reducer, check_any_reducer, reduce_costs
from anchorage.pairs.references import compare
from anchorage.pairs.walk import MOST_SOFT

MINING = ("all", "angular", "batch_hard", "easy", "hard", "margin", "nearest_semi_hard", "semi_hard")
WINDOWS = ("all", "easy", "hard", "margin", "semi_hard")


@keras.saving.register_keras_serializable(package="anchorage")
class TripletLoss(LossLayer):
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

    Defaults: 0.05 of `TripletMarginLoss` and 0.2 of `TripletMarginMiner` of pytorch-metric-learning 2.9, which name no
    place; FaceNet has the margin 0.2 on squared distances (section 3.3).

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
        reducer: how the costs of the triplets become one, see `anchorage.pairs.reducers`.
        normalize: bring the rows to unit length first.

    Call arguments:
        references: what a wrapper hands over; None compares the batch with itself.

    Returns:
        Scalar float32 tensor, at least 0; 0 for a batch without triplets.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

    Example:
        >>> loss = TripletLoss(margin=0.5, normalize=False)
        >>> float(loss(keras.ops.array([[0.0], [1.0], [1.25]]), keras.ops.array([3, 3, 8])))
        0.75
    """

    takes = ("references",)

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
        super().__init__(**kwargs)
        if mining not in MINING:
            raise ValueError(f"`mining` must be one of {list(MINING)}. Received: mining={mining!r}")
        check_not_negative(margin=margin)
        check_positive(miner_margin=miner_margin)
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

    def compute(self, embeddings, labels, references=None):
        pairs = compare(embeddings, labels, references, self.normalize)
        distances = self._matrix(pairs.rows, pairs.columns)
        if self.mining == "batch_hard":
            return self._batch_hard(distances, labels, pairs)
        positives = None if references is None else pairs.positives
        if self.mining in WINDOWS and self.reducer == "avg_non_zero" and not self.smooth and not self.swap:
            return mean_of_hinges(distances, labels, pairs.negatives, self.margin, self._window, positives)
        if self.mining == "all" and self.reducer in ("avg_non_zero", "mean") and self._soft():
            return mean_of_softplus(distances, labels, pairs.negatives, self.margin, positives)
        return reduce_over_positives(
            distances,
            labels,
            self._triplets(ops.stop_gradient(distances), pairs),
            self.reducer,
            positives=positives,
            others=(ops.where(pairs.negatives, distances, float("inf")),),
            whole=self.swap,
        )

    def _matrix(self, rows, columns):
        return self._measure.sign * self._measure.matrix(rows, columns)

    def _soft(self) -> bool:
        """Whether the costs are softplus of differences that are known to be small."""
        widest = {"euclidean": 2.0, "cosine": 2.0, "squared_euclidean": 4.0}.get(self.distance, float("inf"))
        return self.smooth and not self.swap and self.normalize and widest + self.margin < MOST_SOFT

    def _triplets(self, matrix, pairs):
        """For `reduce_over_positives`: costs against the negatives, which of them count, and their derivative."""
        select = self._selection(matrix, pairs)

        def measure(slot, distances):
            chosen, pick, spread = select(slot, distances)
            d_an = pick(distances)
            counted = ops.logical_and(ops.logical_and(chosen, d_an < float("inf")), slot.present[:, None])
            d_pn = pick(rows_from_positives(slot, matrix, pairs, self._matrix)) if self.swap else d_an
            gap = slot.value + self.margin - ops.minimum(d_an, d_pn)

            def derivative(weights):
                slope = weights * (ops.sigmoid(gap) if self.smooth else ops.cast(gap > 0, gap.dtype))
                slopes = slot.here * slot.add_up(slope)[:, None] - spread(slope)
                if not self.swap:
                    return slopes
                moved = spread(ops.where(d_pn < d_an, slope, ops.zeros_like(slope)))
                return slopes + (moved - slot.back(moved) if pairs.columns is pairs.rows else moved)

            return ops.softplus(gap) if self.smooth else ops.relu(gap), counted, derivative

        return measure

    def _window(self, d_ap, distances):
        if self.mining == "hard":
            return distances <= d_ap
        if self.mining == "margin":
            return distances - d_ap <= self.miner_margin
        if self.mining == "easy":
            return distances - d_ap > self.miner_margin
        if self.mining == "semi_hard":
            return ops.logical_and(distances > d_ap, distances - d_ap <= self.miner_margin)
        return distances < float("inf")

    def _selection(self, matrix, pairs):
        """Function of a slot and its rows, infinite where there is no negative, that says which negatives are wanted.

        It gives a `(P, C)` mask of C candidates; a function that picks them out of an `(P, M)` tensor; and one that
        puts `(P, C)` numbers back to their columns.
        """
        if self.mining != "nearest_semi_hard":
            wide = self._wide_angles(pairs) if self.mining == "angular" else None
            return lambda slot, d: (wide(slot) if wide else self._window(slot.value, d), _same, _same)
        farthest = ops.max(ops.where(pairs.negatives, matrix, float("-inf")), axis=1)
        columns = ops.arange(ops.shape(matrix)[1], dtype="int32")[None, :]

        def nearest(slot, d):
            beyond = slot.least(ops.where(d > slot.value, d, float("inf")))
            wanted = ops.where(beyond < float("inf"), beyond, slot.take(farthest))[:, None]
            first = slot.least(ops.where(d == wanted, columns, ops.shape(d)[1]))[:, None]
            found = first < ops.shape(d)[1]
            first = ops.where(found, first, 0)
            here = ops.cast(columns == first, d.dtype)
            return found, lambda x: ops.take_along_axis(x, first, axis=1), lambda x: x * here

        return nearest

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


def _same(x):
    return x
