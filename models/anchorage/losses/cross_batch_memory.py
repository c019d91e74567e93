"""Cross-batch memory: Wang, Zhang, Huang & Scott, CVPR 2020, section 3.3."""

from typing import ClassVar

import keras
from keras import ops

from anchorage.checks import check_at_least_one, check_not_negative
from anchorage.geometry import unit_rows
from anchorage.losses._parts import check_compares, with_dtype
from anchorage.losses.base import LossLayer
from anchorage.losses.contrastive import ContrastiveLoss
from anchorage.mining import MINERS
from anchorage.pairs.references import References


@keras.saving.register_keras_serializable(package="anchorage")
class CrossBatchMemoryLoss(LossLayer):
    """Compares the batch with a memory of recent embeddings, which get no gradient.

    Formula:

        memory_weight loss(batch against the memory) + batch_weight loss(batch against itself)

    The memory is a first-in, first-out queue, saved with the model. No item is compared with its own copy from this
    batch. Until the memory is full, only its filled part counts. `training=False` leaves it unchanged, and so does a
    batch with embeddings that are not finite, whose loss is nan.

    Defaults: 1,024 rows and the batch put in first, `CrossBatchMemory` of pytorch-metric-learning 2.9; the authors'
    `ret_benchmark/config/defaults.py` (msight-tech/research-xbm) has 8,192 rows, the paper up to the whole training
    set.

    Args:
        loss: a loss over pairs, by default `ContrastiveLoss()`.
        memory_size: number of embeddings in the memory, at least the batch size.
        enqueue: `"before"` adds the batch to the memory and then compares, as pytorch-metric-learning does; `"after"`
            compares with earlier batches only.
        miner: one of `anchorage.mining`, which selects among the pairs with the memory; None selects all.
        memory_weight: at least 0.
        batch_weight: at least 0; ROADMAP adds its loss within the batch with 1.

    Call arguments:
        labels: `(N,)` integer tensor of class ids, below 2^31.
        training: `False` compares with the memory without changing it.

    Returns:
        Scalar float32 tensor.

    Raises:
        ValueError: on a parameter out of range, a `loss` that is not over pairs, a batch larger than the memory, or
            shapes that do not fit together.

    Example:
        >>> loss = CrossBatchMemoryLoss(memory_size=4)
        >>> rows = keras.ops.array([[1.0, 0.0], [0.0, 1.0]])
        >>> float(loss(rows, keras.ops.array([0, 1])))
        0.0
        >>> round(float(loss(rows, keras.ops.array([1, 0]))), 4)  # the same places, other classes: sqrt(2) + 1
        2.4142
    """

    takes = ("training",)
    parts: ClassVar = {"loss": None, "miner": MINERS}

    def __init__(
        self,
        loss: keras.layers.Layer | None = None,
        memory_size: int = 1024,
        enqueue: str = "before",
        miner: keras.layers.Layer | None = None,
        memory_weight: float = 1.0,
        batch_weight: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_at_least_one(memory_size=memory_size)
        if enqueue not in ("before", "after"):
            raise ValueError(f"`enqueue` must be 'before' or 'after'. Received: enqueue={enqueue!r}")
        check_not_negative(memory_weight=memory_weight, batch_weight=batch_weight)
        self.inner = with_dtype("loss", loss or ContrastiveLoss(), self.dtype_policy)
        check_compares(self.inner)
        self.loss = self.inner
        self.choose = self.miner = None if miner is None else with_dtype("miner", miner, self.dtype_policy)
        self.memory_size = memory_size
        self.enqueue = enqueue
        self.memory_weight = memory_weight
        self.batch_weight = batch_weight

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
        # Keras would trace `call` with a batch of its own, which may be larger than the memory.
        return keras.KerasTensor((), dtype=self.compute_dtype)

    def compute(self, embeddings, labels, training=None):
        self._check_size(embeddings.shape[0])
        labels = ops.cast(labels, "int32")
        state = tuple(ops.convert_to_tensor(x) for x in (self.memory, self.memory_labels, self.filled))
        places = ops.mod(self.next_place + ops.arange(ops.shape(labels)[0], dtype="int32"), self.memory_size)
        own = ops.zeros((1, self.memory_size), dtype="bool")
        store = training is not False
        if store and self.enqueue == "before":
            state = self._put(embeddings, labels, places, state)
            own = places[:, None] == ops.arange(self.memory_size, dtype="int32")[None, :]
        value = self.memory_weight * self.inner(
            embeddings, labels, references=self._references(embeddings, labels, state, own)
        )
        if self.batch_weight:
            value = value + self.batch_weight * self.inner(embeddings, labels)
        if store and self.enqueue == "after":
            self._put(embeddings, labels, places, state)
        return value

    def _references(self, embeddings, labels, state, own):
        memory, memory_labels, filled = state
        present = ops.arange(self.memory_size, dtype="int32") < filled
        same = labels[:, None] == memory_labels[None, :]
        counted = ops.logical_and(present[None, :], ops.logical_not(own))
        masks = ops.logical_and(same, counted), ops.logical_and(ops.logical_not(same), counted)
        if self.choose is not None:
            masks = self.choose(unit_rows(embeddings), unit_rows(memory), *masks)
        return References(*masks, memory, memory_labels, present)

    def _put(self, embeddings, labels, places, state):
        """Overwrite the oldest rows with the batch; returns memory, labels and the number of filled rows."""
        memory = ops.scatter_update(state[0], places[:, None], ops.cast(ops.stop_gradient(embeddings), state[0].dtype))
        memory_labels = ops.scatter_update(state[1], places[:, None], labels)
        size = ops.shape(labels)[0]
        filled = ops.minimum(state[2] + size, self.memory_size)
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
