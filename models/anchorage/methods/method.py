"""What a training method is: a layer around the loss that sees the whole step."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import keras

if TYPE_CHECKING:
    from anchorage.data.batches import Sampler, Store


class Step(NamedTuple):
    """What one training step has to work with.

    Args:
        inputs: the batch of images, `(N, S, S, 3)`.
        outputs: what the encoder made of them: `embeddings` (N, D) and whatever else it gives.
        labels: `(N,)` integer class ids.
        training: whether this is a step of training rather than of evaluation.
        encoder: the network that made the outputs.
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
        """The same step with other embeddings, labels and outputs; what is not named stays."""
        outputs = {**self.outputs, "embeddings": embeddings, **outputs}
        return self._replace(outputs=outputs, labels=self.labels if labels is None else labels)


class TrainingContext(NamedTuple):
    """The training that a method takes part in.

    Args:
        learner: the `MetricLearner` that holds the method.
        store: training images.
        sampler: which rows a step gets.
        steps_per_epoch: training steps in an epoch.
        epochs: most epochs.
        seed: of the training.
    """

    learner: keras.Model
    store: "Store"
    sampler: "Sampler"
    steps_per_epoch: int
    epochs: int
    seed: int


class Method(keras.layers.Layer):
    """Base of the training methods: each part of a training that it does not care about stays as it is.

    Whatever a method has to remember (teachers, banks, counters, proxies held) are its weights, so that it is saved
    with the learner and a training that goes on finds it as it was. Nothing of it is exported.

    Attributes:
        needs_raw: whether the encoder must give its embeddings before unit length too, as `raw`.
    """

    needs_raw: bool = False

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})

    def prepare(self, learner: keras.Model) -> None:
        """Make the weights; the encoder and the loss of the learner are built by now. Called once."""

    def loss(self, step: Step, inner: Callable[[Step], Any]):
        """The scalar float32 loss of a step; `inner` is the loss that the method wraps around."""
        return inner(step)

    def start(self, context: TrainingContext) -> None:
        """Before the first step; not when a training goes on from a checkpoint."""

    def judged_encoder(self, learner: keras.Model) -> keras.Model | None:
        """The network to validate in place of the learner's own; None for that one."""
        return None

    def finish(self, context: TrainingContext) -> None:
        """After the training, with the weights of the best epoch; the learner's encoder is what gets exported."""

    def after_epoch(self, context: TrainingContext, logs: Mapping[str, float]) -> None:
        """After an epoch and its validation, before the checkpoint.

        Args:
            context: the training.
            logs: the epoch's `loss` and, with validation, `val_recall@1` and `val_map@r`.
        """
