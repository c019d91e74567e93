"""Simplified pairwise cross-entropy: Boudiaf et al., ECCV 2020, section 3.2."""

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_positive
from anchorage.geometry import lowest, unit_rows
from anchorage.losses.base import LossLayer
from anchorage.pairs.masks import check_batch


@keras.saving.register_keras_serializable(package="anchorage")
class SPCELoss(LossLayer):
    """Pairwise cross-entropy with hard assignments; needs no classifier.

    Formula, with n items and `m_ik = scale / n * sum_{y_j = k} z_i.z_j`:

        loss = -1/n sum_i m_{i y_i} + 1/n sum_i log sum_k exp(m_ik)

    over the classes k in the batch, or all there are: each absent class adds `exp(0) = 1`.

    The factor 1 before the first part follows our derivation; the printed form was not open to us.

    Defaults: ours: no code of this loss was published, and its printed form was not open to us. Scale 1 is that of the
    derivation.

    Args:
        scale: multiplies the exponents, positive. With 1 the loss is flat on unit rows in large batches.
        normalize: bring the embeddings to unit length first.
        classes: `"batch"` or `"all"`: the classes of the sum.
        num_classes: number of training classes; needed with `"all"`.

    Returns:
        Scalar float32 tensor, at least 0; with `classes="batch"` exactly 0 for a batch of one class.

    Raises:
        ValueError: on a parameter out of range or shapes that do not fit together.

    Example:
        >>> loss = SPCELoss()
        >>> round(float(loss(keras.ops.zeros((2, 3)), keras.ops.array([0, 1]))), 4)  # log 2
        0.6931
    """

    def __init__(
        self,
        scale: float = 1.0,
        normalize: bool = False,
        classes: str = "batch",
        num_classes: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(scale=scale)
        if classes not in ("batch", "all"):
            raise ValueError(f"`classes` must be 'batch' or 'all'. Received: classes={classes!r}")
        if classes == "all" and num_classes is None:
            raise ValueError("`num_classes` is needed with classes='all'. Received: num_classes=None")
        if num_classes is not None:
            check_at_least_one(num_classes=num_classes)
        self.scale = scale
        self.normalize = normalize
        self.classes = classes
        self.num_classes = num_classes

    def compute(self, embeddings, labels):
        own, spread = self._terms(embeddings, labels)
        # One mean of gaps, not a gap of means, so that a nearly sure answer keeps its digits.
        return ops.mean(spread - own)

    def terms(self, embeddings, labels):
        """The tightness and the contrastive part of the loss, two scalars.

        Example:
            >>> tightness, contrastive = SPCELoss().terms(keras.ops.ones((2, 1)), keras.ops.array([0, 0]))
            >>> float(tightness), float(contrastive)  # one class
            (-1.0, 1.0)
        """
        check_batch(embeddings, labels)
        own, spread = self._terms(embeddings, labels)
        return -ops.mean(own), ops.mean(spread)

    def _terms(self, embeddings, labels):
        """`m_{i y_i}` and `log sum_k exp(m_ik)` of every item."""
        rows = unit_rows(embeddings) if self.normalize else embeddings
        labels = ops.convert_to_tensor(labels)
        same = ops.cast(ops.equal(labels[:, None], labels[None, :]), rows.dtype)
        class_sums = ops.matmul(same, rows)  # one row an item, equal within a class
        logits = ops.matmul(rows, ops.transpose(class_sums)) * (self.scale / ops.cast(ops.shape(rows)[0], rows.dtype))
        own = ops.diagonal(logits)  # an item's own column holds its own class
        # Each class stands there once an item: take off the log of its size to count it once.
        sizes = ops.sum(same, axis=0)
        logits = logits - ops.log(sizes)[None, :]
        if self.classes == "all":
            absent = self.num_classes - ops.sum(1.0 / sizes)
            # All absent classes in one column; rounding may leave a crumb of none.
            absent = ops.where(absent > 0.5, ops.log(ops.maximum(absent, 0.5)), lowest(logits))
            logits = ops.concatenate([logits, absent * ops.ones_like(logits[:, :1])], axis=1)
        return own, ops.logsumexp(logits, axis=1)
