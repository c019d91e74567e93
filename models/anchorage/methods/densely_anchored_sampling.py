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
    """Gives the loss further embeddings around each one of the batch, shaped by what its class is known for.

    Formula, for embedding v of class y and each of its `copies`, * by channel:

        v' = (g m_y + 1 - m_y) * v + shift d,    brought to unit length with `normalize`

    Feature scaling: the mask `m_y` marks the `channels` that were most often among the `channels` largest of an
    embedding of the class so far; g is drawn from `[1 - scale_range, 1 + scale_range]` for each channel. Memorised
    shifting: d is drawn from the last `slots` differences of two embeddings of the class, 0 while there are none.

    The loss sees the batch, then the first copy of each row, then the second, and so on. Meant for losses over
    pairs and triplets; those that want no unit length take `normalize=False`. A pair loss costs
    `(1 + copies)^2` as much, and the differences take `4 num_classes slots embedding_size` bytes.

    Args:
        num_classes: number of training classes C.
        embedding_size: length D of an embedding.
        copies: made of each embedding (T in the paper), at least 1.
        channels: typical of a class (K), in `1 .. embedding_size`.
        slots: differences remembered for each class (Z), at least 1; the oldest leave first.
        scale_range: how far from 1 a channel is scaled (r_s), in [0, 1].
        shift: factor on a difference (r_b), at least 0.
        normalize: bring the copies to unit length.
        detach: pass no gradient from a copy to its embedding.
        aux_weight: None for the loss of batch and copies together; a weight w of at least 0 for the loss of the
            batch alone plus w times the loss of all.
        seed: of what is drawn.

    Raises:
        ValueError: on a parameter out of range, or (eager calls) a label outside the classes.
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
        # The last row stays zero: the difference of a class that has none, and where to put what is not kept.
        self.differences = state("differences", (self.num_classes * self.slots + 1, self.embedding_size))
        self.pushed = state("pushed", (self.num_classes,), "int32")

    def loss(self, step, inner):
        known, in_range = check_class_labels(step.labels, self.num_classes)
        rows = ops.cast(step.embeddings, self.compute_dtype)
        copies = self.copy(rows, known)
        embeddings = ops.concatenate([rows, copies], axis=0)
        labels = ops.tile(step.labels, (1 + self.copies,))
        loss = inner(step.replaced(embeddings, labels))
        if self.aux_weight is not None:
            loss = inner(step) + self.aux_weight * loss
        return loss * ops.cast(in_range, loss.dtype)

    def copy(self, embeddings, labels):
        """Learn from a batch, then make the `(copies * N, D)` embeddings, all first copies before the second."""
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
        shares = keras.random.uniform(shape, seed=self._draws.generator)
        made = move(embeddings, marks, scales, self.shift * self.recall(labels, shares), self.normalize)
        return ops.stop_gradient(made) if self.detach else made

    def count(self, embeddings, labels):
        """Count for each class which channels were among the largest."""
        marks = mark_largest(embeddings, self.channels)
        self.counts.assign_add(ops.segment_sum(marks, labels, num_segments=self.num_classes))

    def remember(self, embeddings, labels):
        """Put the differences within each class, `v_i - v_j` by i, then j, over the oldest ones; zeros are left out."""
        same = labels[:, None] == labels[None, :]
        equal = ops.all(embeddings[:, None, :] == embeddings[None, :, :], axis=-1)  # a row and itself among them
        pairs = ops.cast(ops.logical_and(same, ops.logical_not(equal)), "int32")
        of_row = ops.sum(pairs, axis=1)
        of_class = ops.sum(ops.where(same, of_row[None, :], 0), axis=1)  # of each row's class
        before = ops.sum(ops.tril(ops.where(same, of_row[None, :], 0), -1), axis=1)
        place = before[:, None] + ops.cumsum(pairs, axis=1) - pairs  # among the differences of the class
        kept = pairs * ops.cast(place >= of_class[:, None] - self.slots, "int32")

        # At most `slots` of a row are kept. The padding lets a batch have fewer rows than there are slots.
        found, partners = ops.top_k(ops.pad(kept, ((0, 0), (0, self.slots))), self.slots)
        partners = ops.minimum(partners, ops.shape(labels)[0] - 1)
        differences = embeddings[:, None, :] - ops.take(embeddings, partners, axis=0)
        slot = ops.take(self.pushed, labels)[:, None] + ops.take_along_axis(place, partners, axis=1)
        rows = ops.where(found > 0, labels[:, None] * self.slots + ops.mod(slot, self.slots), self._nowhere)
        differences = ops.where(found[..., None] > 0, differences, ops.zeros_like(differences))
        size = self.embedding_size
        self.differences.assign(
            ops.scatter_update(self.differences, ops.reshape(rows, (-1, 1)), ops.reshape(differences, (-1, size)))
        )
        pushed = self.pushed + ops.segment_sum(of_row, labels, num_segments=self.num_classes)
        # Kept small for ever: from `slots` on only the remainder matters.
        self.pushed.assign(ops.where(pushed > self.slots, self.slots + ops.mod(pushed, self.slots), pushed))

    def recall(self, labels, shares):
        """One remembered difference for each entry of `shares` (T, N) in [0, 1), each of the class's as likely."""
        filled = ops.minimum(ops.take(self.pushed, labels), self.slots)
        slot = ops.minimum(ops.cast(shares * ops.cast(filled, shares.dtype), "int32"), filled - 1)
        return ops.take(self.differences, ops.where(filled > 0, labels * self.slots + slot, self._nowhere), axis=0)

    @property
    def _nowhere(self) -> int:
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
    """1 at the `count` largest entries of each row of `(N, D)`, 0 elsewhere; of equal ones the first win."""
    order = ops.argsort(-rows, axis=1)[:, :count]
    return ops.sum(ops.one_hot(order, rows.shape[1], dtype=rows.dtype), axis=1)


def move(embeddings, marks, scales, shifts, normalize: bool):
    """Scale marked channels, then shift.

    Args:
        embeddings: `(N, D)`.
        marks: `(N, D)`, 1 at the channels to scale.
        scales: `(T, N, D)`.
        shifts: `(T, N, D)`.
        normalize: bring the result to unit length.

    Returns:
        `(T * N, D)`, all rows of the first draw before those of the second.
    """
    moved = (scales * marks + (1.0 - marks)) * embeddings + shifts
    moved = ops.reshape(moved, (-1, embeddings.shape[1]))
    return unit_rows(moved) if normalize else moved
