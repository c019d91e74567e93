"""Base class of the training methods: a layer that wraps the loss and sees the whole training step."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import keras

if TYPE_CHECKING:
    from anchorage.data.batches import Sampler, Store


class Step(NamedTuple):
    """Data of one training step.

    Args:
        inputs: `(N, S, S, 3)` batch of images.
        outputs: outputs of the encoder: `embeddings` (N, D) and any others.
        labels: `(N,)` integer class ids.
        training: whether this is a training step rather than evaluation.
        encoder: the network that computed the outputs.
    """

    inputs: Any
    outputs: dict[str, Any]
    labels: Any
    training: bool | None = None
    encoder: keras.Model | None = None

    @property
    def embeddings(self):
        """The `(N, D)` embeddings."""
        return self.outputs["embeddings"]

    def replaced(self, embeddings, labels=None, **outputs) -> "Step":
        """Copy of the step with new embeddings and, if given, new labels and further outputs."""
        outputs = {**self.outputs, "embeddings": embeddings, **outputs}
        return self._replace(outputs=outputs, labels=self.labels if labels is None else labels)


class TrainingContext(NamedTuple):
    """The training run that a method is part of.

    Args:
        learner: the `MetricLearner` with the method.
        store: training images.
        sampler: selects the rows of each batch.
        steps_per_epoch: training steps per epoch.
        epochs: maximum number of epochs.
        seed: of the training run.
    """

    learner: keras.Model
    store: "Store"
    sampler: "Sampler"
    steps_per_epoch: int
    epochs: int
    seed: int


class Method(keras.layers.Layer):
    """Base class of the training methods; a subclass overrides the hooks it needs.

    The state of a method (teachers, banks, counters, reference weights) consists of Keras weights, so that it is saved
    with the learner and restored when training resumes. It is not exported.

    Attributes:
        needs_raw: whether the encoder must also output its embeddings before L2 normalization, as `raw`.
    """

    needs_raw: bool = False

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})

    def prepare(self, learner: keras.Model) -> None:
        """Create the weights. Called once, after the encoder and the loss of the learner are built."""

    def loss(self, step: Step, inner: Callable[[Step], Any]):
        """Compute the scalar float32 loss of a step; `inner` is the wrapped loss, a function of a step."""
        return inner(step)

    def start(self, context: TrainingContext) -> None:
        """Called before the first step, but not when training resumes from a checkpoint."""

    def judged_encoder(self, learner: keras.Model) -> keras.Model | None:
        """The network to validate instead of the learner's encoder; None for the encoder."""
        return None

    def finish(self, context: TrainingContext) -> None:
        """Called after training with the weights of the best epoch restored; the learner's encoder is exported."""

    def after_epoch(self, context: TrainingContext, logs: Mapping[str, float]) -> None:
        """Called after each epoch and its validation, before the checkpoint is written.

        Args:
            context: the training run.
            logs: `loss` of the epoch and, with validation, `val_recall@1` and `val_map@r`.
        """
