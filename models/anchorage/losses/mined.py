"""A loss over the pairs that a miner keeps, or over the items that stand in them."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from anchorage.geometry import unit_rows
from anchorage.losses._wrapped import make_miner, make_pair_loss
from anchorage.losses.base import LossLayer, call_arguments
from anchorage.pairs.masks import pair_masks
from anchorage.pairs.references import References

_LOSS = {"name": "contrastive"}
_MINER = {"name": "multi_similarity"}


@keras.saving.register_keras_serializable(package="anchorage")
class MinedLoss(LossLayer):
    """Lets a miner choose the pairs of the batch that a loss sees.

    A loss over items, such as a classifier's, has each item's cost multiplied with the number of kept pairs that it
    stands in, as anchor or as the other, over the largest such number; with 1 where no pair is kept. That is what
    pytorch-metric-learning does.

    Defaults: ours: two much used parts.

    Args:
        loss: a loss over pairs, `{"name": ..., "params": {...}}`, or one over items that takes `row_weights`; a
            triplet loss gets the triplets that the kept pairs of an anchor make up.
        miner: a key of `anchorage.mining.MINERS`, `{"name": ..., "params": {...}}`.
        num_classes: number of training classes, for an inner loss that asks for it.

    Returns:
        Scalar float32 tensor, what the inner loss gives.

    Raises:
        ValueError: if `loss` can take neither pairs nor weights, or on shapes that do not fit together.
        UsageError: on an unknown loss, miner or parameter.

    Example:
        >>> loss = MinedLoss(loss={"name": "contrastive"}, miner={"name": "pair_margin", "params": {"neg_margin": 0.5}})
        >>> float(loss(keras.ops.eye(2), keras.ops.array([0, 1])))  # too far apart to count
        0.0
    """

    def __init__(
        self,
        loss: Mapping[str, Any] = _LOSS,
        miner: Mapping[str, Any] = _MINER,
        num_classes: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.inner = make_pair_loss(loss, self.dtype_policy, num_classes, or_rows=True)
        self.choose = make_miner(miner)
        self.loss = dict(loss)
        self.miner = dict(miner)
        self.num_classes = num_classes

    def build(self, embeddings_shape, labels_shape):
        self.inner(keras.KerasTensor(embeddings_shape), keras.KerasTensor(labels_shape, dtype="int32"))  # weights

    def compute(self, embeddings, labels):
        rows = unit_rows(embeddings)
        kept = self.choose(rows, rows, *pair_masks(labels))
        if "references" in call_arguments(type(self.inner)):
            return self.inner(embeddings, labels, references=References(*kept))
        return self.inner(embeddings, labels, row_weights=shares_of_pairs(*kept, rows.dtype))


def shares_of_pairs(positives, negatives, dtype):
    """In how many of the kept pairs each item stands, over the largest such number; ones without any pairs."""
    kept = ops.cast(ops.logical_or(positives, negatives), dtype)
    counts = ops.sum(kept, axis=0) + ops.sum(kept, axis=1)
    most = ops.max(counts)
    return ops.where(most > 0, counts / ops.maximum(most, 1.0), ops.ones_like(counts))
