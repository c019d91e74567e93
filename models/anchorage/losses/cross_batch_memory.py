"""Cross-batch memory: Wang, Zhang, Huang & Scott, CVPR 2020, section 3.3."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_not_negative
from anchorage.geometry import unit_rows
from anchorage.losses._wrapped import make_miner, make_pair_loss
from anchorage.losses.base import LossLayer
from anchorage.pairs.references import References

_LOSS = {"name": "contrastive"}


@keras.saving.register_keras_serializable(package="anchorage")
class CrossBatchMemoryLoss(LossLayer):
    """Compares the batch with the embeddings of the last batches, held without gradient.

    Formula:

        memory_weight loss(batch against the memory) + batch_weight loss(batch against itself)

    The memory is a queue of weights that are saved and not trained. An item is never compared with its own copy of
    this batch. While the memory fills, only what is in it counts; without `training` it is left as it is. A batch with
    embeddings that are not finite costs nan and does not enter it: the next batches are not spoilt.

    Defaults: 1,024 rows and the batch put in first, `CrossBatchMemory` of pytorch-metric-learning 2.9; the authors'
    `ret_benchmark/config/defaults.py` (msight-tech/research-xbm) has 8,192 rows, the paper up to the whole training
    set.

    Args:
        loss: a loss over pairs, `{"name": ..., "params": {...}}`.
        memory_size: embeddings held, at least as many as a batch.
        enqueue: `"before"` puts the batch into the memory and then compares, as pytorch-metric-learning does;
            `"after"` compares with earlier batches alone.
        miner: a key of `anchorage.mining.MINERS`, `{"name": ..., "params": {...}}`, chooses among the pairs with the
            memory.
        memory_weight: at least 0.
        batch_weight: at least 0; ROADMAP adds its loss within the batch with 1.
        num_classes: number of training classes, for an inner loss that asks for it.

    Call arguments:
        labels: `(N,)` integer tensor of class ids, below 2^31.
        training: `False` leaves the memory as it is and compares with it.

    Returns:
        Scalar float32 tensor, what the inner loss gives.

    Raises:
        ValueError: on a parameter out of range, an inner loss that is not over pairs, a batch
            larger than the memory, or shapes that do not fit together.
        UsageError: on an unknown loss, miner or parameter.

    Example:
        >>> loss = CrossBatchMemoryLoss(memory_size=4)
        >>> rows = keras.ops.array([[1.0, 0.0], [0.0, 1.0]])
        >>> float(loss(rows, keras.ops.array([0, 1])))
        0.0
        >>> round(float(loss(rows, keras.ops.array([1, 0]))), 4)  # the same places, other classes: sqrt(2) + 1
        2.4142
    """

    takes = ("training",)

    def __init__(
        self,
        loss: Mapping[str, Any] = _LOSS,
        memory_size: int = 1024,
        enqueue: str = "before",
        miner: Mapping[str, Any] | None = None,
        memory_weight: float = 1.0,
        batch_weight: float = 0.0,
        num_classes: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least_one(memory_size=memory_size)
        if enqueue not in ("before", "after"):
            raise ValueError(f"`enqueue` must be 'before' or 'after'. Received: enqueue={enqueue!r}")
        check_not_negative(memory_weight=memory_weight, batch_weight=batch_weight)
        self.inner = make_pair_loss(loss, self.dtype_policy, num_classes)
        self.choose = make_miner(miner)
        self.loss = dict(loss)
        self.memory_size = memory_size
        self.enqueue = enqueue
        self.miner = None if miner is None else dict(miner)
        self.memory_weight = memory_weight
        self.batch_weight = batch_weight
        self.num_classes = num_classes

    def build(self, embeddings_shape, labels_shape):
        self.inner(keras.KerasTensor(embeddings_shape), keras.KerasTensor(labels_shape, dtype="int32"))  # weights
        size = self.memory_size

        def state(name, shape, dtype=None):
            return self.add_weight(name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False)

        self.memory = state("memory", (size, embeddings_shape[-1]))
        self.memory_labels = state("memory_labels", (size,), "int32")
        self.next_place = state("next_place", (), "int32")
        self.filled = state("filled", (), "int32")

    def compute_output_spec(self, embeddings, labels, training=None):
        # Said here, as Keras would find it out with a made-up batch, which may be larger than the memory.
        return keras.KerasTensor((), dtype=self.compute_dtype)

    def compute(self, embeddings, labels, training=None):
        self._check_size(embeddings.shape[0])
        labels = ops.cast(labels, "int32")
        held = tuple(ops.convert_to_tensor(x) for x in (self.memory, self.memory_labels, self.filled))
        places = ops.mod(self.next_place + ops.arange(ops.shape(labels)[0], dtype="int32"), self.memory_size)
        own = ops.zeros((1, self.memory_size), dtype="bool")
        store = training is not False
        if store and self.enqueue == "before":
            held = self._put(embeddings, labels, places, held)
            own = places[:, None] == ops.arange(self.memory_size, dtype="int32")[None, :]
        value = self.memory_weight * self.inner(
            embeddings, labels, references=self._references(embeddings, labels, held, own)
        )
        if self.batch_weight:
            value = value + self.batch_weight * self.inner(embeddings, labels)
        if store and self.enqueue == "after":
            self._put(embeddings, labels, places, held)
        return value

    def _references(self, embeddings, labels, held, own):
        memory, memory_labels, filled = held
        present = ops.arange(self.memory_size, dtype="int32") < filled
        same = labels[:, None] == memory_labels[None, :]
        counted = ops.logical_and(present[None, :], ops.logical_not(own))
        masks = ops.logical_and(same, counted), ops.logical_and(ops.logical_not(same), counted)
        if self.choose is not None:
            masks = self.choose(unit_rows(embeddings), unit_rows(memory), *masks)
        return References(*masks, memory, memory_labels, present)

    def _put(self, embeddings, labels, places, held):
        """Write the batch over the oldest rows; returns what the memory holds then."""
        memory = ops.scatter_update(held[0], places[:, None], ops.cast(ops.stop_gradient(embeddings), held[0].dtype))
        memory_labels = ops.scatter_update(held[1], places[:, None], labels)
        size = ops.shape(labels)[0]
        filled = ops.minimum(held[2] + size, self.memory_size)
        self.memory.assign(memory)
        self.memory_labels.assign(memory_labels)
        self.filled.assign(filled)
        self.next_place.assign(ops.mod(self.next_place + size, self.memory_size))
        return memory, memory_labels, filled

    def _check_size(self, size):
        if size is not None and size > self.memory_size:
            raise ValueError(
                f"Expected a batch of at most `memory_size` = {self.memory_size} items. Received: {size} embeddings. "
                "Raise `memory_size` or lower the batch size."
            )
