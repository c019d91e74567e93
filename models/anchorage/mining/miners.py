"""Pair miners: layers that select a subset of the positive and negative pairs of a batch.

Names follow pytorch-metric-learning. Angular: Wang, Zhou, Wen, Liu & Lin, ICCV 2017; multi-similarity: Wang et al.,
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
_ROUNDING = 1e-6  # relative; keeps rounding errors from raising an integer count to the next one
_TIE = 1e-5  # (i, j) and (j, i) have equal distances up to rounding


class PairMiner(keras.layers.Layer):
    """Base class of the pair miners.

    Call arguments:
        rows: `(N, D)` anchors, L2-normalized.
        columns: `(M, D)` embeddings to compare with, L2-normalized.
        positives: `(N, M)` bool mask of the positive pairs.
        negatives: `(N, M)` bool mask of the negative pairs.

    Returns:
        Two `(N, M)` bool masks, subsets of `positives` and `negatives`. No gradient flows through the selection.
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
        pos_margin: in units of `distance`; for a similarity, positives below it are kept.
        neg_margin: in units of `distance`; for a similarity, negatives above it are kept.
        distance: a name in `anchorage.geometry.MEASURES`.
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
    """Keeps positives less similar than the hardest negative plus `eps`, and negatives by the mirrored rule.

    Formula, with cosines `s`: positives with `s_ap < max_n s_an + eps`, negatives with `s_an > min_p s_ap - eps`.

    Args:
        eps: tolerance on the cosines, at least 0.
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
    """Keeps one positive and one negative per anchor; batch-hard mining with the defaults.

    Strategies:

    - `"hard"`: the farthest positive or the nearest negative.
    - `"easy"`: the nearest positive or the farthest negative.
    - `"semi_hard"`: the nearest negative that is farther than the selected positive, or the farthest positive that is
      nearer than the selected negative. An anchor without one is dropped.
    - `"all"`: all positives or all negatives.

    Anchors without positives or without negatives are dropped.

    Args:
        positive: strategy for positives.
        negative: strategy for negatives; `"semi_hard"` requires `positive` to be `"easy"` or `"hard"`.
        allowed_pos_range: minimum and maximum Euclidean distance of candidate positives; None for no limits.
        allowed_neg_range: minimum and maximum Euclidean distance of candidate negatives; None for no limits.
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
                "'semi_hard' requires 'easy' or 'hard' for the other kind of pair. "
                f"Received: positive={positive!r}, negative={negative!r}"
            )
        for name, limits in {"allowed_pos_range": allowed_pos_range, "allowed_neg_range": allowed_neg_range}.items():
            if limits is not None and not (len(limits) == 2 and limits[0] <= limits[1]):
                raise ValueError(f"`{name}` must be the minimum and maximum distance. Received: {name}={limits}")
        self.positive = positive
        self.negative = negative
        self.allowed_pos_range = None if allowed_pos_range is None else list(allowed_pos_range)
        self.allowed_neg_range = None if allowed_neg_range is None else list(allowed_neg_range)

    def call(self, rows, columns, positives, negatives):
        distances = ops.stop_gradient(euclidean_distances(rows, columns))
        positives = _within(distances, positives, self.allowed_pos_range)
        negatives = _within(distances, negatives, self.allowed_neg_range)
        has_both = ops.logical_and(ops.any(positives, axis=1), ops.any(negatives, axis=1))[:, None]
        positives, negatives = ops.logical_and(positives, has_both), ops.logical_and(negatives, has_both)
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
        has_both = ops.logical_and(ops.any(positives, axis=1), ops.any(negatives, axis=1))[:, None]
        return ops.logical_and(positives, has_both), ops.logical_and(negatives, has_both)

    def _pick(self, distances, mask, strategy, *, far):
        """Restrict the mask to the farthest or the nearest entry of each row, unless `strategy` is `"all"`."""
        if strategy == "all":
            return mask
        scores = ops.where(mask, distances if far else -distances, lowest(distances))
        index = ops.argmax(scores, axis=1)
        columns = ops.arange(ops.shape(mask)[1], dtype=index.dtype)
        return ops.logical_and(mask, columns[None, :] == index[:, None])


@keras.saving.register_keras_serializable(package="anchorage")
class AngularMiner(PairMiner):
    """Keeps the pairs of triplets with an angle above `angle` at the negative.

    The angle is `atan(|a - p| / (2 |n - c|))`, where c is the midpoint of a and p. A triplet loss on the kept pairs
    forms more triplets than these.

    Args:
        angle: in degrees, in (0, 90).
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
    """Keeps the pairs of triplets selected by their gap `d_an - d_ap`.

    - `"all"`: gap at most `margin`.
    - `"hard"`: gap at most 0.
    - `"semi_hard"`: gap above 0 and at most `margin`.
    - `"easy"`: gap above `margin`.

    A pair counts once, whatever the number of its triplets (pytorch-metric-learning repeats it in pair losses). A
    triplet loss on the kept pairs forms more triplets than these; the `mining` argument of `TripletLoss` uses exactly
    the hard or the semi-hard ones.

    Args:
        margin: in units of `distance`, at least 0.
        type_of_triplets: `"all"`, `"hard"`, `"semi_hard"` or `"easy"`, see above.
        distance: a name in `anchorage.geometry.MEASURES`; similarities are negated.
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
    """Keeps the farthest positives and the nearest negatives of the batch, a fixed fraction of each.

    Counts are rounded up, and pairs tied with the last one are kept.

    Args:
        filter_percentage: fraction of the pairs to keep, in (0, 1].
        distance: a name in `anchorage.geometry.MEASURES`; similarities are negated.
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

    def _hardest(self, easiness, mask):
        count = ops.sum(ops.cast(mask, easiness.dtype))
        kept = ops.ceil(self.filter_percentage * count * (1.0 - _ROUNDING))
        ordered = ops.sort(ops.reshape(ops.where(mask, easiness, float("inf")), (-1,)))
        limit = ops.take(ordered, ops.maximum(ops.cast(kept, "int32") - 1, 0))
        return ops.logical_and(mask, easiness <= limit + _TIE)


@keras.saving.register_keras_serializable(package="anchorage")
class DistanceWeightedMiner(PairMiner):
    """Keeps all positives and samples negatives uniformly over distances, on average up to one per positive.

    Each negative is kept independently with probability `min(1, |P_i| p)`, where p is its sampling probability among
    the negatives of the anchor and `P_i` are the positives (pytorch-metric-learning draws exactly `|P_i|`).

    Args:
        cutoff: lower bound applied to the distances, positive.
        nonzero_loss_cutoff: negatives at this distance or farther are not sampled; positive.
        seed: of the random sampling.
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
        probabilities = negative_probabilities(
            distances, negatives, rows.shape[1], self.cutoff, self.nonzero_loss_cutoff
        ) * ops.sum(ops.cast(positives, distances.dtype), axis=1, keepdims=True)
        return positives, ops.logical_and(negatives, _bernoulli(probabilities, self._draws))


@keras.saving.register_keras_serializable(package="anchorage")
class UniformHistogramMiner(PairMiner):
    """Samples pairs uniformly over the bins of a histogram of their distances.

    Each pair is kept independently with probability `min(1, wanted / present)`, where `present` is the number of pairs
    in its bin and `wanted` is `pos_per_bin` or `neg_per_bin`; the number of kept pairs is right on average.

    Args:
        num_bins: number of bins over the distances [0, 2], at least 1.
        pos_per_bin: positive pairs to keep per bin, at least 1.
        neg_per_bin: negative pairs to keep per bin, at least 1.
        seed: of the random sampling.
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
        probabilities = ops.take(ops.cast(wanted, present.dtype) / ops.maximum(present, 1.0), bins, axis=0)
        kept = _bernoulli(probabilities, self._draws)
        return ops.logical_and(positives, kept), ops.logical_and(negatives, kept)


def _within(distances, mask, limits):
    """Restrict the mask to distances within the limits, inclusive."""
    if limits is None:
        return mask
    return ops.logical_and(mask, ops.logical_and(distances >= limits[0], distances <= limits[1]))


def _pairs_of_triplets(matrix, positives, negatives, choose):
    """Masks of the positive and negative pairs that are part of a selected triplet.

    Args:
        matrix: `(N, M)` float tensor without gradient.
        positives: `(N, M)` bool mask.
        negatives: `(N, M)` bool mask.
        choose: function from a `PositiveBlock`, one positive per anchor, to an `(N, M)` mask of the columns that
            complete a selected triplet.
    """

    def step(shift, kept_positives, kept_negatives):
        block = walk.positive_block(shift)
        chosen = ops.logical_and(ops.logical_and(choose(block), negatives), block.present[:, None])
        in_triplet = ops.logical_and(block.one_hot > 0, ops.any(chosen, axis=1, keepdims=True))
        return shift + 1, ops.logical_or(kept_positives, in_triplet), ops.logical_or(kept_negatives, chosen)

    walk = PositivesWalk(matrix, positives=positives)
    return walk.through(step, ops.zeros_like(positives), ops.zeros_like(negatives))


def _bernoulli(probabilities, draws: SavedSeedGenerator):
    """Independent draws, True with the given probabilities; always True from 1 on."""
    uniforms = keras.random.uniform(ops.shape(probabilities), dtype=probabilities.dtype, seed=draws.generator)
    return uniforms < probabilities
