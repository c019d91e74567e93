"""General pair weighting: Wang, Han, Huang, Dong & Scott, CVPR 2019, equations 2-4."""

import keras
from keras import ops

from anchorage.checks import check_not_negative, check_positive
from anchorage.geometry import dot_products, masked_log1p_sum_exp, masked_logsumexp
from anchorage.losses.base import LossLayer
from anchorage.mining.rules import mine_pairs
from anchorage.pairs.references import compare
from anchorage.pairs.walk import PositivesWalk, sum_rows

WEIGHTINGS = ("multi_similarity", "contrastive", "binomial_deviance", "lifted_structure", "triplet")


@keras.saving.register_keras_serializable(package="anchorage")
class GeneralPairWeightingLoss(LossLayer):
    """Gradient of a pair loss as a weighted sum of cosines, with the weights held constant.

    Formula, with cosines `S`, positives `P_i` and negatives `N_i` of anchor i:

        loss = 1/N sum_i [ sum_{N_i} w_ij S_ij - sum_{P_i} w_ij S_ij ]

    Its gradient equals that of the loss with these weights; its value has no meaning. The weights:

    - `"multi_similarity"`: on mined pairs, `exp(-alpha (S_ij - base)) / (1 + sum exp(...))` for positives, likewise
      with `beta` and the other sign for negatives.
    - `"contrastive"`: 1 for positives, 1 for negatives with `S_ij > base`.
    - `"binomial_deviance"`: `alpha / |P_i| sigma(alpha (base - S_ij))`, `beta / |N_i| sigma(beta (S_ij - base))`.
    - `"lifted_structure"`: `softmax(-S)` over positives and `softmax(S)` over negatives, for anchors with
      `base + log sum exp(-S) + log sum exp(S) > 0`.
    - `"triplet"`: the number of the anchor's triplets with `S_in > S_ip - margin` that contain the pair.

    Defaults: 2 and 50, which pytorch-metric-learning 2.9 gives for the paper (`docs/losses.md`, MultiSimilarityLoss;
    with base 1); base 0.5 and eps 0.1 are those of the authors' `losses/multi_similarity_loss.py`
    (msight-tech/research-ms-loss); the margin is ours.

    Args:
        weighting: see above.
        alpha: sharpness on positives, positive.
        beta: sharpness on negatives, positive.
        base: cosine between the two kinds (lambda in the paper).
        eps: slack of the mining, at least 0; for `"multi_similarity"`.
        margin: by how much a positive should exceed a negative, at least 0; for `"triplet"`.
        normalize: bring the rows to unit length first.
        mining: leave easy pairs out; for `"multi_similarity"`. pytorch-metric-learning has no mining there.

    Call arguments:
        references: what a wrapper hands over; None compares the batch with itself.

    Returns:
        Scalar float32 tensor of either sign.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

    Example:
        >>> loss = GeneralPairWeightingLoss("contrastive")
        >>> round(float(loss(keras.ops.ones((2, 2)), keras.ops.array([0, 0]))), 4)
        -1.0
    """

    takes = ("references",)

    def __init__(
        self,
        weighting: str = "multi_similarity",
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        eps: float = 0.1,
        margin: float = 0.1,
        normalize: bool = True,
        mining: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if weighting not in WEIGHTINGS:
            raise ValueError(f"`weighting` must be one of {list(WEIGHTINGS)}. Received: weighting={weighting!r}")
        check_positive(alpha=alpha, beta=beta)
        check_not_negative(eps=eps, margin=margin)
        self.weighting = weighting
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.eps = eps
        self.margin = margin
        self.normalize = normalize
        self.mining = mining

    def compute(self, embeddings, labels, references=None):
        rows, columns, positives, negatives = compare(embeddings, labels, references, self.normalize)
        similarities = dot_products(rows, columns)
        of_positives, of_negatives = self.pair_weights(similarities, positives, negatives)
        return ops.mean(ops.sum((of_negatives - of_positives) * similarities, axis=1))

    def pair_weights(self, similarities, positives, negatives):
        """Weights of positives and negatives, two `(N, N)` tensors without gradient, 0 where no such pair is."""
        s = ops.stop_gradient(similarities)
        if self.weighting == "contrastive":
            pair = ops.ones_like(s), ops.cast(s > self.base, s.dtype)
        elif self.weighting == "binomial_deviance":
            pair = (
                self.alpha * ops.sigmoid(self.alpha * (self.base - s)) / _count(positives, s.dtype),
                self.beta * ops.sigmoid(self.beta * (s - self.base)) / _count(negatives, s.dtype),
            )
        elif self.weighting == "lifted_structure":
            tops = masked_logsumexp(-s, positives, axis=1), masked_logsumexp(s, negatives, axis=1)
            on = ops.cast(self.base + tops[0] + tops[1] > 0, s.dtype)[:, None]
            pair = on * _exp(-s, positives, tops[0]), on * _exp(s, negatives, tops[1])
        elif self.weighting == "triplet":
            pair = self._violations(s, positives, negatives)
        else:
            if self.mining:
                positives, negatives = mine_pairs(s, positives, negatives, self.eps)
            low, high = -self.alpha * (s - self.base), self.beta * (s - self.base)
            pair = (
                _exp(low, positives, masked_log1p_sum_exp(low, positives, axis=1)),
                _exp(high, negatives, masked_log1p_sum_exp(high, negatives, axis=1)),
            )
        return tuple(
            ops.where(mask, weights, ops.zeros_like(weights))
            for mask, weights in zip((positives, negatives), pair, strict=True)
        )

    def _violations(self, s, positives, negatives):
        """Number of margin-violating triplets that contain each pair, as the positive and as the negative."""
        others = ops.where(negatives, s, float("-inf"))

        def step(shift, near, far):
            block = walk.positive_block(shift)
            limit = ops.where(block.present[:, None], block.value - self.margin, float("inf"))
            found = ops.cast(others > limit, s.dtype)
            return shift + 1, near + block.one_hot * sum_rows(found)[:, None], far + found

        walk = PositivesWalk(s, positives=positives)
        return walk.through(step, ops.zeros_like(s), ops.zeros_like(s))


def _count(mask, dtype):
    return ops.maximum(ops.sum(ops.cast(mask, dtype), axis=1, keepdims=True), 1.0)


def _exp(exponents, mask, top):
    """`exp(exponents - top)` where `mask` holds; elsewhere the exponent could overflow, and counts for nothing."""
    return ops.exp(ops.where(mask, exponents - top[:, None], ops.zeros_like(exponents)))
