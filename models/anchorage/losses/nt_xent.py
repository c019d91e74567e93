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
    """Tells each positive of an anchor from the anchor's negatives by a softmax.

    Formula, for every ordered positive pair (a, p), with similarities `s` and `N_a` the negatives of a:

        loss_ap = -log( exp(s_ap / t) / (exp(s_ap / t) + sum_{n in N_a} exp(s_an / t)) )

    Other positives of the anchor are not in the denominator.

    Defaults: 0.07, `NTXentLoss` of pytorch-metric-learning 2.9, whose `docs/losses.md` gives 0.07 for MoCo and 0.5 for
    SimCLR.

    Args:
        temperature: t, positive.
        distance: `"cosine"`, or any other name of `anchorage.geometry.MEASURES`; a distance counts as a
            negative similarity.
        reducer: how the costs of the pairs become one, see `anchorage.pairs.reducers`.
        normalize: bring the rows to unit length first.

    Call arguments:
        references: what a wrapper hands over; None compares the batch with itself.

    Returns:
        Scalar float32 tensor, at least 0; 0 for a batch without positives or without negatives.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

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
        against = masked_logsumexp(logits, negatives, axis=1)[:, None]
        counted = ops.logical_and(positives, ops.any(negatives, axis=1, keepdims=True))
        costs = ops.where(counted, ops.softplus(ops.where(counted, against - logits, 0.0)), 0.0)
        return reduce_costs(costs, positives, self.reducer, labels)
