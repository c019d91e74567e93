"""The trainable Keras model: an encoder, a loss on its embeddings, and training methods that wrap the loss."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
from keras import ops

from anchorage.errors import UsageError
from anchorage.inference import named_outputs
from anchorage.losses.base import call_arguments
from anchorage.methods.method import Method, Step
from anchorage.replicas import gather_rows, replicas, synchronize_norms


@keras.saving.register_keras_serializable(package="anchorage")
class MetricLearner(keras.Model):
    """Trains `encoder` and the weights of `loss_layer` on batches of (inputs, labels).

    The loss is that of `loss_layer`: pass an optimizer to `compile`, but no loss. With a small encoder,
    `jit_compile=True` speeds up triplet and ranking losses on CPUs. `predict` returns the outputs of the encoder, or
    of the encoder that a method provides for evaluation, such as a moving average. A saved learner contains the
    encoder, the loss and the methods with their state, and the optimizer.

    Args:
        encoder: model that maps inputs to `(N, D)` embeddings, or to a dict
            with the key `"embeddings"`. Other entries of the dict are passed
            to the loss if its `call` has an argument of that name.
        loss_layer: layer called as `loss_layer(embeddings, labels)`.
        methods: training methods that wrap the loss; the first is the outermost.

    Example:
        >>> from anchorage.losses.contrastive import ContrastiveLoss
        >>> encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> learner = MetricLearner(encoder, ContrastiveLoss())
        >>> learner.compile(optimizer="adam")
        >>> history = learner.fit(keras.ops.eye(3), keras.ops.array([0, 1, 1]), verbose=0)
        >>> learner.predict(keras.ops.eye(3), verbose=0).shape
        (3, 2)
    """

    def __init__(self, encoder: keras.Model, loss_layer: keras.layers.Layer, methods: Sequence[Method] = (), **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.loss_layer = loss_layer
        self.methods = list(methods)
        self._loss_takes = call_arguments(loss_layer)

    def build(self, input_shape):
        self.build_loss(input_shape)
        for method in self.methods:
            self.prepare(method)
        self.built = True

    def build_loss(self, input_shape) -> None:
        """Make the weights of the loss, such as proxies: the first part of `build`.

        Args:
            input_shape: of a batch of inputs.
        """
        synchronize_norms(self.encoder)
        # The symbolic call creates the proxies before the optimizer is built and before weights are loaded.
        inputs = keras.tree.map_shape_structure(lambda shape: keras.KerasTensor(shape), input_shape)
        outputs = self.encoder.compute_output_spec(inputs)
        labels = keras.KerasTensor((keras.tree.flatten(inputs)[0].shape[0],), dtype="int32")
        with keras.name_scope(self.name, caller=self):  # as in `build`, whoever calls
            self.plain_loss(Step(inputs, named_outputs(outputs), labels))

    def prepare(self, method: Method) -> None:
        """Make the weights of one of the methods, once: the second part of `build`."""
        if not method.built:
            with keras.name_scope(self.name, caller=self):
                method.prepare(self)
            method.built = True

    def call(self, inputs, training=None):
        judged = (method.judged_encoder(self) for method in self.methods if not training)
        encoder = next((network for network in judged if network is not None), self.encoder)
        return encoder(inputs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if self._compile_loss is not None:
            raise ValueError("Expected `compile` without `loss`: the learner has its own `loss_layer`.")
        if sample_weight is not None:
            raise ValueError("Expected batches of (inputs, labels): a metric-learning loss takes no `sample_weight`.")
        inputs = gather_rows(x) if self.methods else x  # only methods read the inputs
        loss = self.training_loss(Step(inputs, *gather_rows((named_outputs(y_pred), y)), training, self.encoder))
        for extra in self.losses:  # weight regularizers and `add_loss` calls of the encoder's layers
            loss = loss + ops.cast(extra, loss.dtype)
        return loss / replicas()  # every replica has the loss of the global batch, and Keras sums their gradients

    def training_loss(self, step: Step):
        """Compute the loss of a step with all methods applied."""
        wrapped: Callable[[Step], Any] = self.plain_loss
        for method in reversed(self.methods if step.training else []):
            wrapped = partial(method.loss, inner=wrapped)
        return wrapped(step)

    def plain_loss(self, step: Step):
        """Compute the loss of a step without methods.

        Raises:
            UsageError: E_LOSS_VALUE, if the layer returns anything but a scalar floating-point tensor.
        """
        extras = {key: value for key, value in step.outputs.items() if key != "embeddings" and key in self._loss_takes}
        if "training" in self._loss_takes:
            extras["training"] = step.training
        value = self.loss_layer(step.embeddings, step.labels, **extras)
        _check_scalar(value, self.loss_layer)
        return value

    def get_config(self):
        parts = {"encoder": self.encoder, "loss_layer": self.loss_layer, "methods": self.methods}
        return {**super().get_config(), **{k: keras.saving.serialize_keras_object(v) for k, v in parts.items()}}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = {"methods": [], **config}
        parts = {
            key: keras.saving.deserialize_keras_object(config.pop(key), custom_objects=custom_objects)
            for key in ("encoder", "loss_layer", "methods")
        }
        return cls(**parts, **config)


def _check_scalar(value: Any, layer: keras.layers.Layer) -> None:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is None or len(shape) or not keras.backend.is_float_dtype(keras.backend.standardize_dtype(dtype)):
        received = f"{value!r:.60}" if shape is None else f"shape {tuple(shape)}, dtype {dtype}"
        raise UsageError(
            "E_LOSS_VALUE",
            f"Expected a scalar floating-point tensor from `call` of {type(layer).__name__}. Received: {received}.",
        )
