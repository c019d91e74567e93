"""A loss over the pairs that a miner selects, or over the items in them."""

from typing import ClassVar

import keras
from keras import ops

from anchorage.geometry import unit_rows
from anchorage.losses._parts import check_compares, with_dtype
from anchorage.losses.base import LossLayer, call_arguments
from anchorage.losses.contrastive import ContrastiveLoss
from anchorage.mining import MINERS, MultiSimilarityMiner
from anchorage.pairs.masks import pair_masks
from anchorage.pairs.references import References


@keras.saving.register_keras_serializable(package="anchorage")
class MinedLoss(LossLayer):
    """Computes a loss over the pairs of the batch that a miner selects.

    A loss over items, such as a classifier, weights the cost of each item by the number of selected pairs that contain
    it, divided by the largest such number, and by 1 if no pair is selected. This is what pytorch-metric-learning does.

    Defaults: ours: contrastive loss and multi-similarity miner.

    Args:
        loss: a loss over pairs, or one over items that takes `row_weights`. A triplet loss gets the triplets that
            the selected pairs of an anchor form. By default `ContrastiveLoss()`.
        miner: one of `anchorage.mining`, by default `MultiSimilarityMiner()`.

    Returns:
        Scalar float32 tensor, the value of `loss`.

    Raises:
        ValueError: if `loss` takes neither pairs nor weights, or on shapes that do not fit together.

    Example:
        >>> from anchorage.losses.contrastive import ContrastiveLoss
        >>> from anchorage.mining import PairMarginMiner
        >>> loss = MinedLoss(ContrastiveLoss(), PairMarginMiner(neg_margin=0.5))
        >>> float(loss(keras.ops.eye(2), keras.ops.array([0, 1])))  # too far apart to count
        0.0
    """

    parts: ClassVar = {"loss": None, "miner": MINERS}

    def __init__(self, loss: keras.layers.Layer | None = None, miner: keras.layers.Layer | None = None, **kwargs):
        super().__init__(**kwargs)
        self.inner = with_dtype("loss", loss or ContrastiveLoss(), self.dtype_policy)
        check_compares(self.inner, or_weighs_rows=True)
        self.loss = self.inner
        self.choose = self.miner = with_dtype("miner", miner or MultiSimilarityMiner(), self.dtype_policy)

    def build(self, embeddings_shape, labels_shape):
        self.inner(keras.KerasTensor(embeddings_shape), keras.KerasTensor(labels_shape, dtype="int32"))  # weights

    def compute(self, embeddings, labels):
        rows = unit_rows(embeddings)
        kept = self.choose(rows, rows, *pair_masks(labels))
        if "references" in call_arguments(type(self.inner)):
            return self.inner(embeddings, labels, references=References(*kept))
        return self.inner(embeddings, labels, row_weights=shares_of_pairs(*kept, rows.dtype))


def shares_of_pairs(positives, negatives, dtype):
    """The number of selected pairs with each item, divided by the largest such number; ones if there are no pairs."""
    kept = ops.cast(ops.logical_or(positives, negatives), dtype)
    counts = ops.sum(kept, axis=0) + ops.sum(kept, axis=1)
    most = ops.max(counts)
    return ops.where(most > 0, counts / ops.maximum(most, 1.0), ops.ones_like(counts))
