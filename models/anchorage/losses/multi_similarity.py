"""Multi-Similarity loss: Wang, Han, Huang, Dong & Scott, CVPR 2019, equation 15 with the mining of equations 11-12."""

from types import MappingProxyType

import keras
from keras import ops

from anchorage.checks import check_between, check_not_negative, check_positive
from anchorage.geometry import find_measure, masked_log1p_sum_exp
from anchorage.losses.base import LossLayer
from anchorage.mining.rules import mine_pairs
from anchorage.pairs.reducers import Reducer, check_any_reducer, reduce_costs
from anchorage.pairs.references import compare


@keras.saving.register_keras_serializable(package="anchorage")
class MultiSimilarityLoss(LossLayer):
    """Weights each pair by its own similarity and by the similarities of the anchor's other pairs.

    Formula, with `S` the cosines and `P_i`, `N_i` the mined positives and negatives of anchor i:

        loss = 1/N sum_i [ 1/alpha log(1 + sum_{P_i} exp(-alpha (S_ik - base)))
                         + 1/beta  log(1 + sum_{N_i} exp( beta  (S_ik - base))) ]

    Mining keeps a negative above `min_{positives} S_ik - eps` and a positive below
    `max_{negatives} S_ik + eps`.

    Parameter sets: `beta=50, base=1` is the paper's (ms_paper), `beta=40, base=0.5` that of its published code
    (ms_repo); both have `alpha=2, eps=0.1`. `mining=False` gives the loss of pytorch-metric-learning 2.9.

    Defaults: 2 and 50, which pytorch-metric-learning 2.9 gives for the paper (`docs/losses.md`, MultiSimilarityLoss;
    with base 1); base 0.5 and eps 0.1 are those of the authors' `losses/multi_similarity_loss.py`
    (msight-tech/research-ms-loss).

    Args:
        alpha: sharpness on positives, positive.
        beta: sharpness on negatives, positive.
        base: cosine that positives should exceed and negatives stay below (lambda in the paper), in [-1, 1]; a
            distance the other way round, at least 0, where `distance` is one.
        eps: slack of the mining, at least 0.
        mining: leave easy pairs out.
        distance: what S is: `"dot"`, on unit rows the cosine, `"cosine"`, or a distance with the sign changed:
            `"euclidean"`, `"squared_euclidean"`, `"manhattan"` or `"snr"`.
        reducer: how the costs of the anchors become one, see `anchorage.pairs.reducers`.
        normalize: bring the rows to unit length first.

    Call arguments:
        references: what a wrapper hands over; None compares the batch with itself.

    Returns:
        Scalar float32 tensor, at least 0. With mining an anchor that lacks
        positives or negatives adds 0.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

    Example:
        >>> loss = MultiSimilarityLoss()
        >>> float(loss(keras.ops.eye(3), keras.ops.array([0, 1, 2])))
        0.0
    """

    takes = ("references",)
    _removed = MappingProxyType({"negative_base": None})
    _negative_sign = 1.0

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        eps: float = 0.1,
        mining: bool = True,
        distance: str = "dot",
        reducer: Reducer = "mean",
        normalize: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(alpha=alpha, beta=beta)
        check_not_negative(eps=eps)
        self._measure = find_measure(distance)
        if self._measure.sign > 0:
            check_not_negative(base=base)
        else:
            check_between(-1, 1, base=base)
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.eps = eps
        self.mining = mining
        self.distance = distance
        self.reducer = check_any_reducer(reducer)
        self.normalize = normalize

    def compute(self, embeddings, labels, references=None):
        rows, columns, positives, negatives = compare(embeddings, labels, references, self.normalize)
        sign = -self._measure.sign
        similarities = sign * self._measure.matrix(rows, columns)
        if self.mining:
            positives, negatives = mine_pairs(similarities, positives, negatives, self.eps)
        pull = masked_log1p_sum_exp(-self.alpha * (similarities - sign * self.base), positives, axis=1) / self.alpha
        base = self._negative_sign * self.base
        push = masked_log1p_sum_exp(self.beta * (similarities - sign * base), negatives, axis=1) / self.beta
        costs = pull + push
        return reduce_costs(costs, ops.ones_like(costs, dtype="bool"), self.reducer, labels)
