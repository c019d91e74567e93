"""Miners of pairs: layers that thin out the positive and negative masks of a batch.

Named after pytorch-metric-learning's; angular: Wang, Zhou, Wen, Liu & Lin, ICCV 2017; multi-similarity: Wang et al.,
CVPR 2019, eq. 11-12; batch-hard: Hermans et al., 2017; easy positives: Xuan, Stylianou & Pless, WACV 2020;
distance-weighted: Wu et al., ICCV 2017; hdc: Yuan, Yang & Zhang, ICCV 2017; triplet margin: Schroff et al., CVPR 2015.
"""

from collections.abc import Sequence

import keras
from keras import ops

from anchorage.checks import check_acute, check_at_least_one, check_not_negative, check_positive
from anchorage.geometry import dot_products, euclidean_distances, find_measure, lowest, squared_distances
from anchorage.mining.distance_weighted import negative_probabilities
from anchorage.mining.rules import mine_pairs, wide_angles
from anchorage.pairs.positives import rows_from_positives
from anchorage.pairs.references import Pairs
from anchorage.pairs.walk import PositivesWalk
from anchorage.seeds import SavedSeedGenerator

_STRATEGIES = ("easy", "hard", "semi_hard", "all")
_TRIPLETS = ("all", "easy", "hard", "semi_hard")
_ROUNDING = 1e-6  # a share of a number of pairs that is a whole number must not come out above it
_TIE = 1e-5  # a pair both ways has the same distance but for rounding


class PairMiner(keras.layers.Layer):
    """What all miners of pairs are called with, and give.

    Call arguments:
        rows: `(N, D)` anchors of unit length.
        columns: `(M, D)` what they are compared with, of unit length.
        positives: `(N, M)` bool.
        negatives: `(N, M)` bool.

    Returns:
        Two `(N, M)` bool masks, subsets of `positives` and `negatives`. No gradient flows through the choice.
    """

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.built = True

    def get_config(self):
        return {**super().get_config(), **{name: getattr(self, name) for name in self.names}}

    names: tuple[str, ...] = ()


@keras.saving.register_keras_serializable(package="anchorage")
class PairMarginMiner(PairMiner):
    """Keeps positives farther than `pos_margin` and negatives nearer than `neg_margin`, both strictly.

    Args:
        pos_margin: in the units of `distance`; for a similarity, positives below it are kept.
        neg_margin: likewise; for a similarity, negatives above it are kept.
        distance: a name of `anchorage.geometry.MEASURES`.
    """

    names = ("pos_margin", "neg_margin", "distance")

    def __init__(self, pos_margin: float = 0.2, neg_margin: float = 0.8, distance: str = "euclidean", **kwargs):
        super().__init__(**kwargs)
        self._measure = find_measure(distance)
        self.pos_margin = pos_margin
        self.neg_margin = neg_margin
        self.distance = distance

    def call(self, rows, columns, positives, negatives):
        distances, sign = self._measure.matrix(rows, columns), self._measure.sign
        far = sign * (distances - self.pos_margin) > 0
        near = sign * (distances - self.neg_margin) < 0
        return ops.logical_and(positives, far), ops.logical_and(negatives, near)


@keras.saving.register_keras_serializable(package="anchorage")
class MultiSimilarityMiner(PairMiner):
    """Keeps the pairs that are hard beside the anchor's pairs of the other kind, by cosines.

    Args:
        eps: slack, at least 0.
    """

    names = ("eps",)

    def __init__(self, eps: float = 0.1, **kwargs):
        super().__init__(**kwargs)
        check_not_negative(eps=eps)
        self.eps = eps

    def call(self, rows, columns, positives, negatives):
        return mine_pairs(dot_products(rows, columns), positives, negatives, self.eps)


@keras.saving.register_keras_serializable(package="anchorage")
class BatchEasyHardMiner(PairMiner):
    """Keeps one positive and one negative of every anchor that has both; batch-hard with the defaults.

    - `"hard"`: the farthest positive, the nearest negative.
    - `"easy"`: the nearest positive, the farthest negative.
    - `"semi_hard"`: of the negatives farther than the chosen positive the nearest; of the positives nearer than the
      chosen negative the farthest. An anchor without such is dropped.
    - `"all"`: keeps all of the kind.

    Args:
        positive: which positive.
        negative: which negative; not `"semi_hard"` together with a positive of `"semi_hard"` or `"all"`.
        allowed_pos_range: least and largest Euclidean distance of the positives that count at all; None for any.
        allowed_neg_range: likewise for negatives.
    """

    names = ("positive", "negative", "allowed_pos_range", "allowed_neg_range")

    def __init__(
        self,
        positive: str = "hard",
        negative: str = "hard",
        allowed_pos_range: Sequence[float] | None = None,
        allowed_neg_range: Sequence[float] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value in {"positive": positive, "negative": negative}.items():
            if value not in _STRATEGIES:
                raise ValueError(f"`{name}` must be one of {list(_STRATEGIES)}. Received: {name}={value!r}")
        if (
            "semi_hard" in (positive, negative) and {positive, negative} & {"all"}
        ) or positive == negative == "semi_hard":
            raise ValueError(
                "'semi_hard' needs one chosen pair of the other kind. "
                f"Received: positive={positive!r}, negative={negative!r}"
            )
        for name, limits in {"allowed_pos_range": allowed_pos_range, "allowed_neg_range": allowed_neg_range}.items():
            if limits is not None and not (len(limits) == 2 and limits[0] <= limits[1]):
                raise ValueError(f"`{name}` must be the least and the largest distance. Received: {name}={limits}")
        self.positive = positive
        self.negative = negative
        self.allowed_pos_range = None if allowed_pos_range is None else list(allowed_pos_range)
        self.allowed_neg_range = None if allowed_neg_range is None else list(allowed_neg_range)

    def call(self, rows, columns, positives, negatives):
        distances = ops.stop_gradient(euclidean_distances(rows, columns))
        positives = _within(distances, positives, self.allowed_pos_range)
        negatives = _within(distances, negatives, self.allowed_neg_range)
        whole = ops.logical_and(ops.any(positives, axis=1), ops.any(negatives, axis=1))[:, None]
        positives, negatives = ops.logical_and(positives, whole), ops.logical_and(negatives, whole)
        if self.positive != "semi_hard":
            positives = self._pick(distances, positives, self.positive, far=self.positive == "hard")
        if self.negative != "semi_hard":
            negatives = self._pick(distances, negatives, self.negative, far=self.negative == "easy")
        if self.negative == "semi_hard":
            limit = ops.max(ops.where(positives, distances, float("-inf")), axis=1, keepdims=True)
            negatives = ops.logical_and(negatives, distances > limit)
            negatives = self._pick(distances, negatives, "hard", far=False)
        if self.positive == "semi_hard":
            limit = ops.min(ops.where(negatives, distances, float("inf")), axis=1, keepdims=True)
            positives = ops.logical_and(positives, distances < limit)
            positives = self._pick(distances, positives, "hard", far=True)
        whole = ops.logical_and(ops.any(positives, axis=1), ops.any(negatives, axis=1))[:, None]
        return ops.logical_and(positives, whole), ops.logical_and(negatives, whole)

    def _pick(self, distances, mask, strategy, *, far):
        if strategy == "all":
            return mask
        order = ops.where(mask, distances if far else -distances, lowest(distances))
        index = ops.argmax(order, axis=1)
        columns = ops.arange(ops.shape(mask)[1], dtype=index.dtype)
        return ops.logical_and(mask, columns[None, :] == index[:, None])


@keras.saving.register_keras_serializable(package="anchorage")
class AngularMiner(PairMiner):
    """Keeps the pairs that stand in a triplet whose negative sees anchor and positive under a wide angle.

    The angle is `atan(|a - p| / (2 |n - c|))`, with c midway between a and p. A triplet loss over the kept pairs of an
    anchor makes up more triplets than these; `TripletLoss(mining="angular")` takes exactly these.

    Args:
        angle: least angle in degrees, not counted itself; in (0, 90).
    """

    names = ("angle",)

    def __init__(self, angle: float = 20.0, **kwargs):
        super().__init__(**kwargs)
        check_acute(angle=angle)
        self.angle = angle

    def call(self, rows, columns, positives, negatives):
        pairs = Pairs(rows, columns, positives, negatives)
        squared = ops.stop_gradient(squared_distances(rows, columns))

        def choose(block):
            from_positive = rows_from_positives(block, squared, pairs, squared_distances)
            return wide_angles(block.value, squared, from_positive, self.angle)

        return _pairs_of_triplets(squared, positives, negatives, choose)


@keras.saving.register_keras_serializable(package="anchorage")
class TripletMarginMiner(PairMiner):
    """Keeps the pairs that stand in a triplet of a kind, by the gap `d_an - d_ap`.

    - `"all"`: a gap of at most `margin`.
    - `"hard"`: of at most 0.
    - `"semi_hard"`: above 0 and at most `margin`.
    - `"easy"`: above `margin`.

    A pair counts once, in however many such triplets it stands (pytorch-metric-learning repeats it in losses over
    single pairs). A triplet loss over the kept pairs of an anchor makes up more triplets than these; `TripletLoss`
    takes exactly these with its own `mining`, where `"all"` is called `"margin"`.

    Args:
        margin: in the units of `distance`, at least 0.
        type_of_triplets: see above.
        distance: a name of `anchorage.geometry.MEASURES`; similarities are taken with the sign changed.
    """

    names = ("margin", "type_of_triplets", "distance")

    def __init__(self, margin: float = 0.2, type_of_triplets: str = "all", distance: str = "euclidean", **kwargs):
        super().__init__(**kwargs)
        check_not_negative(margin=margin)
        if type_of_triplets not in _TRIPLETS:
            raise ValueError(
                f"`type_of_triplets` must be one of {list(_TRIPLETS)}. Received: type_of_triplets={type_of_triplets!r}"
            )
        self._measure = find_measure(distance)
        self.margin = margin
        self.type_of_triplets = type_of_triplets
        self.distance = distance

    def call(self, rows, columns, positives, negatives):
        distances = ops.stop_gradient(self._measure.sign * self._measure.matrix(rows, columns))

        def choose(block):
            gaps = distances - block.value
            if self.type_of_triplets == "hard":
                return gaps <= 0
            if self.type_of_triplets == "easy":
                return gaps > self.margin
            near = gaps <= self.margin
            return near if self.type_of_triplets == "all" else ops.logical_and(near, gaps > 0)

        return _pairs_of_triplets(distances, positives, negatives, choose)


@keras.saving.register_keras_serializable(package="anchorage")
class HDCMiner(PairMiner):
    """Keeps a share of the positives of the batch, the farthest, and the same share of the negatives, the nearest.

    Shares are rounded up to whole pairs. Pairs that tie with the last one stay too.

    Args:
        filter_percentage: the share, in (0, 1].
        distance: a name of `anchorage.geometry.MEASURES`; similarities are taken with the sign changed.
    """

    names = ("filter_percentage", "distance")

    def __init__(self, filter_percentage: float = 0.5, distance: str = "euclidean", **kwargs):
        super().__init__(**kwargs)
        if not 0 < filter_percentage <= 1:
            raise ValueError(f"`filter_percentage` must lie in (0, 1]. Received: filter_percentage={filter_percentage}")
        self._measure = find_measure(distance)
        self.filter_percentage = filter_percentage
        self.distance = distance

    def call(self, rows, columns, positives, negatives):
        distances = ops.stop_gradient(self._measure.sign * self._measure.matrix(rows, columns))
        return self._hardest(-distances, positives), self._hardest(distances, negatives)

    def _hardest(self, ease, mask):
        number = ops.sum(ops.cast(mask, ease.dtype))
        kept = ops.ceil(self.filter_percentage * number * (1.0 - _ROUNDING))
        ordered = ops.sort(ops.reshape(ops.where(mask, ease, float("inf")), (-1,)))
        limit = ops.take(ordered, ops.maximum(ops.cast(kept, "int32") - 1, 0))
        return ops.logical_and(mask, ease <= limit + _TIE)


@keras.saving.register_keras_serializable(package="anchorage")
class DistanceWeightedMiner(PairMiner):
    """Keeps all positives and draws negatives evenly over their distances, about one for each positive.

    Each negative is kept on its own, with `min(1, |P_i| p)`, p its probability among the anchor's negatives, so that
    the number drawn is right on average (pytorch-metric-learning draws exactly that many).

    Args:
        cutoff: distances below it count as this.
        nonzero_loss_cutoff: distances from here on are not drawn.
        seed: of the draws.
    """

    names = ("cutoff", "nonzero_loss_cutoff", "seed")

    def __init__(self, cutoff: float = 0.5, nonzero_loss_cutoff: float = 1.4, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        check_positive(cutoff=cutoff, nonzero_loss_cutoff=nonzero_loss_cutoff)
        self.cutoff = cutoff
        self.nonzero_loss_cutoff = nonzero_loss_cutoff
        self.seed = seed
        self._draws = SavedSeedGenerator(seed)

    def call(self, rows, columns, positives, negatives):
        distances = ops.stop_gradient(euclidean_distances(rows, columns))
        shares = negative_probabilities(
            distances, negatives, rows.shape[1], self.cutoff, self.nonzero_loss_cutoff
        ) * ops.sum(ops.cast(positives, distances.dtype), axis=1, keepdims=True)
        return positives, ops.logical_and(negatives, _drawn(shares, self._draws))


@keras.saving.register_keras_serializable(package="anchorage")
class UniformHistogramMiner(PairMiner):
    """Draws pairs so that every interval of distances holds about the same number.

    Each pair is kept on its own, with `min(1, wanted / present)` of its interval, so that the numbers are right on
    average.

    Args:
        num_bins: intervals over the distances [0, 2], at least 1.
        pos_per_bin: positive pairs wanted in each, at least 1.
        neg_per_bin: negative pairs wanted in each, at least 1.
        seed: of the draws.
    """

    names = ("num_bins", "pos_per_bin", "neg_per_bin", "seed")

    def __init__(self, num_bins: int = 100, pos_per_bin: int = 10, neg_per_bin: int = 10, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        check_at_least_one(num_bins=num_bins, pos_per_bin=pos_per_bin, neg_per_bin=neg_per_bin)
        self.num_bins = num_bins
        self.pos_per_bin = pos_per_bin
        self.neg_per_bin = neg_per_bin
        self.seed = seed
        self._draws = SavedSeedGenerator(seed)

    def call(self, rows, columns, positives, negatives):
        distances = ops.stop_gradient(euclidean_distances(rows, columns))
        bins = ops.clip(ops.cast(ops.floor(distances * (self.num_bins / 2.0)), "int32"), 0, self.num_bins - 1)
        bins = bins + self.num_bins * ops.cast(negatives, "int32")
        counted = ops.cast(ops.logical_or(positives, negatives), distances.dtype)
        present = ops.segment_sum(ops.reshape(counted, (-1,)), ops.reshape(bins, (-1,)), 2 * self.num_bins)
        wanted = ops.where(ops.arange(2 * self.num_bins) < self.num_bins, self.pos_per_bin, self.neg_per_bin)
        shares = ops.take(ops.cast(wanted, present.dtype) / ops.maximum(present, 1.0), bins, axis=0)
        kept = _drawn(shares, self._draws)
        return ops.logical_and(positives, kept), ops.logical_and(negatives, kept)


def _within(distances, mask, limits):
    """The pairs of the mask whose distances lie within the limits, both included."""
    if limits is None:
        return mask
    return ops.logical_and(mask, ops.logical_and(distances >= limits[0], distances <= limits[1]))


def _pairs_of_triplets(matrix, positives, negatives, choose):
    """The pairs that stand in a chosen triplet.

    Args:
        matrix: `(N, M)` float tensor without gradient.
        positives: `(N, M)` bool.
        negatives: `(N, M)` bool.
        choose: function of a `PositiveBlock`, one positive of every anchor, that says which columns complete a triplet.
    """

    def step(shift, near, far):
        block = walk.positive_block(shift)
        chosen = ops.logical_and(ops.logical_and(choose(block), negatives), block.present[:, None])
        kept = ops.logical_and(block.one_hot > 0, ops.any(chosen, axis=1, keepdims=True))
        return shift + 1, ops.logical_or(near, kept), ops.logical_or(far, chosen)

    walk = PositivesWalk(matrix, positives=positives)
    return walk.through(step, ops.zeros_like(positives), ops.zeros_like(negatives))


def _drawn(shares, draws: SavedSeedGenerator):
    """True with the given probabilities, each entry on its own; 1 and more is always True."""
    numbers = keras.random.uniform(ops.shape(shares), dtype=shares.dtype, seed=draws.generator)
    return numbers < shares
