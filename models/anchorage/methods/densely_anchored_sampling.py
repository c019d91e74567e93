"""Densely anchored sampling: Liu, Huang, Zhuang, Yang, Wang & Tan, ECCV 2022."""

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_between, check_not_negative
from anchorage.geometry import unit_rows
from anchorage.labels import check_class_labels
from anchorage.methods.method import Method
from anchorage.seeds import SavedSeedGenerator


@keras.saving.register_keras_serializable(package="anchorage")
class DenselyAnchoredSampling(Method):
    """Augments a batch with synthetic embeddings around each embedding, by feature scaling and memorized shifts.

    Formula, for each of the `copies` of an embedding v of class y, with elementwise products:

        v' = (g m_y + 1 - m_y) * v + shift d,    L2-normalized if `normalize`

    Feature scaling: the mask `m_y` marks the `channels` that have most often been among the `channels` largest entries
    of embeddings of the class; g is uniform in `[1 - scale_range, 1 + scale_range]` for each channel. Memorized
    shifting: d is drawn from the last `slots` differences between two embeddings of the class, or is 0 if there are
    none yet.

    The loss receives the batch, then the first copy of every row, then the second, and so on. Intended for losses over
    pairs and triplets; set `normalize=False` for losses on unnormalized embeddings. A pair loss takes
    `(1 + copies)^2` times as long, and the differences take `4 num_classes slots embedding_size` bytes.

    Args:
        num_classes: number of training classes C.
        embedding_size: embedding size D.
        copies: synthetic embeddings per embedding (T in the paper), at least 1.
        channels: channels marked per class (K), in `1 .. embedding_size`.
        slots: differences stored per class (Z), first in, first out; at least 1.
        scale_range: maximum deviation of the scale from 1 (r_s), in [0, 1].
        shift: factor on the differences (r_b), at least 0.
        normalize: L2-normalize the copies.
        detach: stop gradients from the copies to their embeddings.
        aux_weight: None for the loss on batch and copies; a weight w of at least 0 for the loss on the batch plus w
            times that on batch and copies.
        seed: of the random scales and shifts.

    Raises:
        ValueError: if an argument is out of range or (eager calls) a label is out of range.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        copies: int = 3,
        channels: int = 4,
        slots: int = 10,
        scale_range: float = 0.01,
        shift: float = 0.01,
        normalize: bool = True,
        detach: bool = True,
        aux_weight: float | None = None,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least_one(copies=copies, channels=channels, slots=slots)
        check_between(1, embedding_size, channels=channels)
        check_between(0, 1, scale_range=scale_range)
        check_not_negative(shift=shift, **({} if aux_weight is None else {"aux_weight": aux_weight}))
        self.num_classes = num_classes
        self.embedding_size = embedding_size
        self.copies = copies
        self.channels = channels
        self.slots = slots
        self.scale_range = scale_range
        self.shift = shift
        self.normalize = normalize
        self.detach = detach
        self.aux_weight = aux_weight
        self.seed = seed
        self._draws = SavedSeedGenerator(seed)

    def prepare(self, learner):
        def state(name, shape, dtype=None):
            return self.add_weight(name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False)

        # float32 counts are exact up to 16,777,216 embeddings of a class.
        self.counts = state("counts", (self.num_classes, self.embedding_size))
        # The last row stays zero: it is read for classes without differences, and written for those to discard.
        self.differences = state("differences", (self.num_classes * self.slots + 1, self.embedding_size))
        self.pushed = state("pushed", (self.num_classes,), "int32")

    def loss(self, step, inner):
        class_ids, in_range = check_class_labels(step.labels, self.num_classes)
        rows = ops.cast(step.embeddings, self.compute_dtype)
        copies = self.copy(rows, class_ids)
        embeddings = ops.concatenate([rows, copies], axis=0)
        labels = ops.tile(step.labels, (1 + self.copies,))
        loss = inner(step.replaced(embeddings, labels))
        if self.aux_weight is not None:
            loss = inner(step) + self.aux_weight * loss
        return loss * ops.cast(in_range, loss.dtype)

    def copy(self, embeddings, labels):
        """Update the state from a batch, then return the `(copies * N, D)` copies, the first copy of all rows first."""
        rows = ops.stop_gradient(embeddings)
        self.count(rows, labels)
        self.remember(rows, labels)
        shape = (self.copies, ops.shape(labels)[0])
        marks = mark_largest(ops.take(self.counts, labels, axis=0), self.channels)
        scales = keras.random.uniform(
            (*shape, self.embedding_size),
            1.0 - self.scale_range,
            1.0 + self.scale_range,
            dtype=rows.dtype,
            seed=self._draws.generator,
        )
        uniforms = keras.random.uniform(shape, seed=self._draws.generator)
        copies = move(embeddings, marks, scales, self.shift * self.recall(labels, uniforms), self.normalize)
        return ops.stop_gradient(copies) if self.detach else copies

    def count(self, embeddings, labels):
        """Count how often each channel is among the largest, by class."""
        marks = mark_largest(embeddings, self.channels)
        self.counts.assign_add(ops.segment_sum(marks, labels, num_segments=self.num_classes))

    def remember(self, embeddings, labels):
        """Store the differences within each class, replacing the oldest.

        These are `v_i - v_j` ordered by i, then j, without zeros.
        """
        same = labels[:, None] == labels[None, :]
        equal = ops.all(embeddings[:, None, :] == embeddings[None, :, :], axis=-1)  # includes the diagonal
        pairs = ops.cast(ops.logical_and(same, ops.logical_not(equal)), "int32")
        row_counts = ops.sum(pairs, axis=1)
        class_counts = ops.sum(ops.where(same, row_counts[None, :], 0), axis=1)  # of the class of each row
        before = ops.sum(ops.tril(ops.where(same, row_counts[None, :], 0), -1), axis=1)
        index = before[:, None] + ops.cumsum(pairs, axis=1) - pairs  # within the differences of the class
        kept = pairs * ops.cast(index >= class_counts[:, None] - self.slots, "int32")

        # At most `slots` differences of a row are kept; the padding allows batches with fewer rows than slots.
        valid, partners = ops.top_k(ops.pad(kept, ((0, 0), (0, self.slots))), self.slots)
        partners = ops.minimum(partners, ops.shape(labels)[0] - 1)
        differences = embeddings[:, None, :] - ops.take(embeddings, partners, axis=0)
        slot = ops.take(self.pushed, labels)[:, None] + ops.take_along_axis(index, partners, axis=1)
        rows = ops.where(valid > 0, labels[:, None] * self.slots + ops.mod(slot, self.slots), self._zero_row)
        differences = ops.where(valid[..., None] > 0, differences, ops.zeros_like(differences))
        size = self.embedding_size
        self.differences.assign(
            ops.scatter_update(self.differences, ops.reshape(rows, (-1, 1)), ops.reshape(differences, (-1, size)))
        )
        pushed = self.pushed + ops.segment_sum(row_counts, labels, num_segments=self.num_classes)
        # From `slots` on only the remainder matters; this prevents overflow.
        self.pushed.assign(ops.where(pushed > self.slots, self.slots + ops.mod(pushed, self.slots), pushed))

    def recall(self, labels, uniforms):
        """Look up a stored difference of the class for each of the uniform numbers (T, N) in [0, 1)."""
        filled = ops.minimum(ops.take(self.pushed, labels), self.slots)
        slot = ops.minimum(ops.cast(uniforms * ops.cast(filled, uniforms.dtype), "int32"), filled - 1)
        return ops.take(self.differences, ops.where(filled > 0, labels * self.slots + slot, self._zero_row), axis=0)

    @property
    def _zero_row(self) -> int:
        return self.num_classes * self.slots

    def get_config(self):
        names = (
            "num_classes",
            "embedding_size",
            "copies",
            "channels",
            "slots",
            "scale_range",
            "shift",
            "normalize",
            "detach",
            "aux_weight",
            "seed",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def mark_largest(rows, count: int):
    """Mark the `count` largest entries of each row of an `(N, D)` tensor with 1, others with 0; first wins on ties."""
    order = ops.argsort(-rows, axis=1)[:, :count]
    return ops.sum(ops.one_hot(order, rows.shape[1], dtype=rows.dtype), axis=1)


def move(embeddings, marks, scales, shifts, normalize: bool):
    """Scale the marked channels, then add the shifts.

    Args:
        embeddings: `(N, D)` float tensor.
        marks: `(N, D)`, 1 at the channels to scale.
        scales: `(T, N, D)` scales of T copies.
        shifts: `(T, N, D)` shifts of T copies.
        normalize: L2-normalize the result.

    Returns:
        `(T * N, D)` float tensor, the first copy of all rows first.
    """
    moved = (scales * marks + (1.0 - marks)) * embeddings + shifts
    moved = ops.reshape(moved, (-1, embeddings.shape[1]))
    return unit_rows(moved) if normalize else moved
