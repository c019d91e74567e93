"""NT-Xent, InfoNCE: Sohn, NeurIPS 2016; van den Oord et al., arXiv 1807.03748, 2018; Chen et al., ICML 2020, eq. 1."""

import keras
from keras import ops

from anchorage.checks import check_positive
from anchorage.geometry import find_measure, masked_logsumexp
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import ANCHOR_REDUCERS, Reducer, check_any_reducer, reduce_costs
from anchorage.pairs.references import compare


@keras.saving.register_keras_serializable(package="anchorage")
class NTXentLoss(LossLayer):
    """Classifies each positive of an anchor against the negatives of the anchor, as a softmax.

    Formula, for every ordered positive pair (a, p), with similarities `s` and `N_a` the negatives of a:

        loss_ap = -log( exp(s_ap / t) / (exp(s_ap / t) + sum_{n in N_a} exp(s_an / t)) )

    The denominator excludes the other positives of the anchor.

    Defaults: 0.07, `NTXentLoss` of pytorch-metric-learning 2.9, whose `docs/losses.md` quotes 0.07 for MoCo and 0.5 for
    SimCLR.

    Args:
        temperature: t, positive.
        distance: `"cosine"` or another name in `anchorage.geometry.MEASURES`; distances are negated.
        reducer: reduction of the per-pair losses, see `anchorage.pairs.reducers`.
        normalize: L2-normalize the embeddings first.

    Call arguments:
        references: pairs and embeddings from a wrapper such as `MinedLoss`; None compares the batch with itself.

    Returns:
        Non-negative float32 scalar; 0 for a batch without positives or without negatives.

    Raises:
        ValueError: if an argument is out of range or shapes are incompatible.

    Example:
        >>> loss = NTXentLoss(temperature=1.0)
        >>> round(float(loss(keras.ops.ones((3, 2)), keras.ops.array([0, 0, 1]))), 4)  # log 2
        0.6931
    """

    takes = ("references",)

    def __init__(
        self,
        temperature: float = 0.07,
        distance: str = "cosine",
        reducer: Reducer = "mean",
        normalize: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(temperature=temperature)
        self._measure = find_measure(distance)
        self.temperature = temperature
        self.distance = distance
        self.reducer = check_any_reducer(reducer, ANCHOR_REDUCERS)
        self.normalize = normalize

    def compute(self, embeddings, labels, references=None):
        rows, columns, positives, negatives = compare(embeddings, labels, references, self.normalize)
        logits = self._measure.matrix(rows, columns) * (-self._measure.sign / self.temperature)
        negative_total = masked_logsumexp(logits, negatives, axis=1)[:, None]
        counted = ops.logical_and(positives, ops.any(negatives, axis=1, keepdims=True))
        costs = ops.where(counted, ops.softplus(ops.where(counted, negative_total - logits, 0.0)), 0.0)
        return reduce_costs(costs, positives, self.reducer, labels)
