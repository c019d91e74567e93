"""Simplified pairwise cross-entropy: Boudiaf et al., ECCV 2020, section 3.2."""

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_positive
from anchorage.geometry import lowest, unit_rows
from anchorage.losses.base import LossLayer
from anchorage.pairs.masks import check_batch


@keras.saving.register_keras_serializable(package="anchorage")
class SPCELoss(LossLayer):
    """Pairwise cross-entropy with hard class assignments; needs no classifier.

    Formula, with n embeddings z and `m_ik = scale / n * sum_{y_j = k} z_i.z_j`:

        loss = -1/n sum_i m_{i y_i} + 1/n sum_i log sum_k exp(m_ik)

    where k runs over the classes in the batch, or over all classes: each absent class adds `exp(0) = 1`.

    The factor 1 of the first term follows our derivation; we could not consult the printed form.

    Defaults: ours, as no code of this loss was published and we could not consult its printed form. Scale 1 is that of
    the derivation.

    Args:
        scale: multiplies the exponents, positive. With 1 the loss is flat on unit vectors in large batches.
        normalize: L2-normalize the embeddings first.
        classes: `"batch"` or `"all"`, the classes of the sum over k.
        num_classes: number of training classes; required if `classes="all"`.

    Returns:
        Non-negative float32 scalar; with `classes="batch"` exactly 0 for a batch of one class.

    Raises:
        ValueError: if an argument is out of range or shapes are incompatible.

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
            raise ValueError("`num_classes` is required with classes='all'. Received: num_classes=None")
        if num_classes is not None:
            check_at_least_one(num_classes=num_classes)
        self.scale = scale
        self.normalize = normalize
        self.classes = classes
        self.num_classes = num_classes

    def compute(self, embeddings, labels):
        target, total = self._logits(embeddings, labels)
        # Averaging the differences keeps the precision of confident predictions.
        return ops.mean(total - target)

    def terms(self, embeddings, labels):
        """The tightness and contrastive terms, two scalars.

        Example:
            >>> tightness, contrastive = SPCELoss().terms(keras.ops.ones((2, 1)), keras.ops.array([0, 0]))
            >>> float(tightness), float(contrastive)  # one class
            (-1.0, 1.0)
        """
        check_batch(embeddings, labels)
        target, total = self._logits(embeddings, labels)
        return -ops.mean(target), ops.mean(total)

    def _logits(self, embeddings, labels):
        """`m_{i y_i}` and `log sum_k exp(m_ik)` of every sample."""
        rows = unit_rows(embeddings) if self.normalize else embeddings
        labels = ops.convert_to_tensor(labels)
        same = ops.cast(ops.equal(labels[:, None], labels[None, :]), rows.dtype)
        class_sums = ops.matmul(same, rows)  # one row per sample, equal within a class
        logits = ops.matmul(rows, ops.transpose(class_sums)) * (self.scale / ops.cast(ops.shape(rows)[0], rows.dtype))
        target = ops.diagonal(logits)  # column i belongs to the class of sample i
        # A class has as many equal columns as samples: subtracting the log of its size counts it once.
        sizes = ops.sum(same, axis=0)
        logits = logits - ops.log(sizes)[None, :]
        if self.classes == "all":
            absent = self.num_classes - ops.sum(1.0 / sizes)
            # One column for all absent classes; the count of 0 may carry a rounding error, hence 0.5.
            absent = ops.where(absent > 0.5, ops.log(ops.maximum(absent, 0.5)), lowest(logits))
            logits = ops.concatenate([logits, absent * ops.ones_like(logits[:, :1])], axis=1)
        return target, ops.logsumexp(logits, axis=1)
