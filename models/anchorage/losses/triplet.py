"""Triplet loss: Schroff et al., CVPR 2015, eq. 1-4; batch-hard: Hermans et al., arXiv 1703.07737, 2017, eq. 5."""

from types import MappingProxyType

import keras
from keras import ops

from anchorage.checks import check_not_negative, check_positive
from anchorage.geometry import find_measure
from anchorage.losses.base import LossLayer
from anchorage.pairs.positives import mean_of_hinges, mean_of_softplus, reduce_over_positives, rows_from_positives
from anchorage.pairs.reducers import Reducer, check_any_reducer, reduce_costs
from anchorage.pairs.references import compare
from anchorage.pairs.walk import MOST_SOFT, min_of_rows, sum_rows

MINING = ("all", "batch_hard", "hard", "nearest_semi_hard", "semi_hard")
WINDOWS = ("all", "hard", "semi_hard")
_MINERS = {"angular": "angular", "easy": "triplet_margin", "margin": "triplet_margin"}  # what `mining` could be once


@keras.saving.register_keras_serializable(package="anchorage")
class TripletLoss(LossLayer):
    """Makes each anchor nearer to its own class than to any other, by a margin.

    Formula, over triplets (a, p, n) with p of the label of a and n of another one:

        loss_apn = max(0, d_ap - d_an + margin)      or softplus of the same with `smooth`

    `mining` says which triplets count:

    - `"all"`: every one.
    - `"semi_hard"`: those with `0 < d_an - d_ap <= miner_margin`.
    - `"hard"`: those with `d_an <= d_ap`.
    - `"nearest_semi_hard"`: one n for each ordered pair (a, p), the nearest with `d_an > d_ap`, or else the
      farthest. With `margin=1.0`, `reducer="mean"` and `normalize=False` it is what TensorFlow Addons calls
      `TripletSemiHardLoss`.
    - `"batch_hard"`: one for each anchor, its farthest positive and its nearest negative.

    Memory grows with the square of the batch, never with its cube.

    Defaults: 0.05 of `TripletMarginLoss` and 0.2 of `TripletMarginMiner` of pytorch-metric-learning 2.9, which name no
    place; FaceNet has the margin 0.2 on squared distances (section 3.3).

    Args:
        margin: least difference of the two distances that costs nothing, in their units; at least 0.
        mining: see above.
        miner_margin: width of the semi-hard band, positive; for `"semi_hard"`.
        distance: `"euclidean"`, `"squared_euclidean"`, `"manhattan"`, `"snr"`, `"cosine"` or `"dot"`;
            similarities are taken with the sign changed.
        smooth: softplus in place of the hinge.
        swap: measure n from the nearer of a and p; not with `"batch_hard"`. Distances within a memory carry no
            gradient.
        reducer: how the costs of the triplets become one, see `anchorage.pairs.reducers`.
        normalize: bring the rows to unit length first.

    Call arguments:
        references: from a wrapper; None compares the batch with itself.

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
    _removed = MappingProxyType({"angle": 20.0})

    def __init__(
        self,
        margin: float = 0.05,
        mining: str = "all",
        miner_margin: float = 0.2,
        distance: str = "euclidean",
        smooth: bool = False,
        swap: bool = False,
        reducer: Reducer = "avg_non_zero",
        normalize: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if mining not in MINING:
            remedy = f". Use the loss 'mined' with the miner {_MINERS[mining]!r}" if mining in _MINERS else ""
            raise ValueError(f"`mining` must be one of {list(MINING)}. Received: mining={mining!r}{remedy}")
        check_not_negative(margin=margin)
        check_positive(miner_margin=miner_margin)
        if swap and mining == "batch_hard":
            raise ValueError("`swap` has no meaning with mining='batch_hard'. Received: swap=True")
        self._measure = find_measure(distance)
        self.margin = margin
        self.mining = mining
        self.miner_margin = miner_margin
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
        fixed = ops.stop_gradient(distances)
        some = ops.any(pairs.negatives, axis=1)
        nearest = self._nearest(fixed, pairs.negatives) if self.mining == "nearest_semi_hard" else None

        def cost(block, d_ap, d_an, d_pn=None):
            if nearest is None:
                window = ops.logical_and(self._window(d_ap, d_an), d_an < float("inf"))
                mask = ops.logical_and(window, block.present[:, None])
            else:
                chosen = nearest(block, d_an)
                d_ap, d_an = d_ap[:, 0], sum_rows(ops.where(chosen, d_an, 0.0))
                d_pn = None if d_pn is None else sum_rows(ops.where(chosen, d_pn, 0.0))
                mask = ops.logical_and(block.take(some), block.present)
            nearer = d_an if d_pn is None else ops.where(d_pn < d_an, d_pn, d_an)
            gap = d_ap - nearer + self.margin
            return ops.softplus(gap) if self.smooth else ops.relu(gap), mask

        return reduce_over_positives(
            distances,
            labels,
            cost,
            self.reducer,
            positives=positives,
            others=(ops.where(pairs.negatives, distances, float("inf")),),
            between=(lambda block: rows_from_positives(block, fixed, pairs, self._matrix)) if self.swap else None,
            flow="scatter" if self.swap and pairs.columns is pairs.rows else "none",
        )

    def _matrix(self, rows, columns):
        return self._measure.sign * self._measure.matrix(rows, columns)

    def _soft(self) -> bool:
        """Whether the costs are softplus of differences that are known to be small."""
        widest = {"euclidean": 2.0, "cosine": 2.0, "squared_euclidean": 4.0}.get(self.distance, float("inf"))
        return self.smooth and not self.swap and self.normalize and widest + self.margin < MOST_SOFT

    def _window(self, d_ap, d_an):
        if self.mining == "hard":
            return d_an <= d_ap
        if self.mining == "semi_hard":
            return ops.logical_and(d_an > d_ap, d_an - d_ap <= self.miner_margin)
        return d_an < float("inf")

    def _nearest(self, distances, negatives):
        """Function of a block and its distances to negatives, infinite elsewhere, that masks one negative a pair."""
        farthest = ops.max(ops.where(negatives, distances, float("-inf")), axis=1)
        columns = ops.arange(ops.shape(distances)[1], dtype="int32")[None, :]

        def nearest(block, d_an):
            farther = min_of_rows(ops.where(d_an > block.value, d_an, float("inf")))
            wanted = ops.where(farther < float("inf"), farther, block.take(farthest))[:, None]
            return columns == min_of_rows(ops.where(d_an == wanted, columns, ops.shape(d_an)[1]))[:, None]

        return nearest

    def _batch_hard(self, distances, labels, pairs):
        farthest = ops.max(ops.where(pairs.positives, distances, float("-inf")), axis=1)
        nearest = ops.min(ops.where(pairs.negatives, distances, float("inf")), axis=1)
        whole = ops.logical_and(ops.any(pairs.positives, axis=1), ops.any(pairs.negatives, axis=1))
        gap = ops.where(whole, farthest - nearest, ops.zeros_like(farthest)) + self.margin
        return reduce_costs(ops.softplus(gap) if self.smooth else ops.relu(gap), whole, self.reducer, labels)
