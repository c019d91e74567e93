"""Contrastive loss: Hadsell, Chopra & LeCun, CVPR 2006, equation 4."""

import keras
from keras import ops

from anchorage.geometry import find_measure
from anchorage.losses.base import LossLayer
from anchorage.pairs.reducers import PAIR_REDUCERS, Reducer, check_any_reducer, reduce_costs
from anchorage.pairs.references import compare


@keras.saving.register_keras_serializable(package="anchorage")
class ContrastiveLoss(LossLayer):
    """Pulls positive pairs together and pushes negative pairs beyond a margin.

    Formula, with each set of ordered pairs reduced separately and the two results added:

        positives: max(0, d_ij - pos_margin)^power
        negatives: max(0, neg_margin - d_ij)^power

    with `d_ij` the distance between embeddings i and j. For a similarity (`"cosine"`, `"dot"`) the differences are
    negated. The paper has `power=2`, raw embeddings (`normalize=False`) and a factor 1/2.

    Defaults: 0 and 1, `ContrastiveLoss` of pytorch-metric-learning 2.9, which cites no source; the paper squares the
    hinges (`power=2`).

    Args:
        pos_margin: distance below which a positive pair has no loss.
        neg_margin: distance beyond which a negative pair has no loss. Euclidean distances of unit vectors lie in
            [0, 2].
        power: 1 for plain hinges, 2 for squared hinges.
        distance: `"euclidean"`, `"squared_euclidean"`, `"manhattan"`, `"snr"`, `"cosine"` or `"dot"`. `"snr"` gives
            the signal-to-noise contrastive loss (Yuan et al., CVPR 2019).
        reducer: reduction of the per-pair losses, see `anchorage.pairs.reducers`.
        normalize: L2-normalize the embeddings first.

    Call arguments:
        references: pairs and embeddings from a wrapper such as `MinedLoss`; None compares the batch with itself.

    Returns:
        Non-negative float32 scalar; 0 for a batch of one.

    Raises:
        ValueError: if `distance`, `reducer` or `power` is unknown, the margins are in the wrong order, or shapes are
            incompatible.

    Example:
        >>> loss = ContrastiveLoss(neg_margin=1.0, normalize=False)
        >>> float(loss(keras.ops.array([[0.0], [0.5]]), keras.ops.array([3, 3])))
        0.5
    """

    takes = ("references",)

    def __init__(
        self,
        pos_margin: float = 0.0,
        neg_margin: float = 1.0,
        power: int = 1,
        distance: str = "euclidean",
        reducer: Reducer = "avg_non_zero",
        normalize: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._measure = find_measure(distance)
        if self._measure.sign * (neg_margin - pos_margin) < 0:
            order = "must not be below" if self._measure.sign > 0 else "must not be above"
            raise ValueError(
                f"`neg_margin` {order} `pos_margin` with distance={distance!r}. "
                f"Received: pos_margin={pos_margin}, neg_margin={neg_margin}"
            )
        if power not in (1, 2):
            raise ValueError(f"`power` must be 1 or 2. Received: power={power}")
        self.pos_margin = pos_margin
        self.neg_margin = neg_margin
        self.power = power
        self.distance = distance
        self.reducer = check_any_reducer(reducer, PAIR_REDUCERS)
        self.normalize = normalize

    def compute(self, embeddings, labels, references=None):
        rows, columns, positives, negatives = compare(embeddings, labels, references, self.normalize)
        distances = self._measure.matrix(rows, columns)
        pull = ops.relu(self._measure.sign * (distances - self.pos_margin)) ** self.power
        push = ops.relu(self._measure.sign * (self.neg_margin - distances)) ** self.power
        return reduce_costs(pull, positives, self.reducer, labels) + reduce_costs(push, negatives, self.reducer, labels)
