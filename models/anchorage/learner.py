"""The trainable model: an encoder, one loss over its embeddings, and the methods around that loss."""

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
    """Fits `encoder` and the weights of `loss_layer` on (inputs, labels) batches.

    The loss comes from the layer alone: `compile` takes an optimizer and no loss; `jit_compile=True` is quicker on CPUs
    for losses over triplets and ranks, where the encoder is small beside them. `predict` gives what the
    encoder gives, or the one that a method wants judged. Saving keeps encoder, loss, methods, what these have
    learned and remember, and the optimizer.

    Args:
        encoder: model mapping inputs to `(N, D)` embeddings, or to a dict with
            the key `"embeddings"`. Of the dict's other entries the loss gets
            those that its `call` names.
        loss_layer: layer called as `loss_layer(embeddings, labels)`.
        methods: what wraps around the loss while training; the first is the outermost.

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
        synchronize_norms(self.encoder)
        # A symbolic call makes the proxies before the optimizer counts variables and before weights load.
        inputs = keras.tree.map_shape_structure(lambda shape: keras.KerasTensor(shape), input_shape)
        outputs = self.encoder.compute_output_spec(inputs)
        labels = keras.KerasTensor((keras.tree.flatten(inputs)[0].shape[0],), dtype="int32")
        self.plain_loss(Step(inputs, named_outputs(outputs), labels))
        if not self.built:
            for method in self.methods:
                method.prepare(self)
                method.built = True
        self.built = True

    def call(self, inputs, training=None):
        judged = (method.judged_encoder(self) for method in self.methods if not training)
        encoder = next((network for network in judged if network is not None), self.encoder)
        return encoder(inputs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if self._compile_loss is not None:
            raise ValueError("Expected `compile` without `loss`: the learner has its own `loss_layer`.")
        if sample_weight is not None:
            raise ValueError("Expected batches of (inputs, labels): a loss over pairs knows no `sample_weight`.")
        inputs = gather_rows(x) if self.methods else x  # the loss has no use for them
        loss = self.training_loss(Step(inputs, *gather_rows((named_outputs(y_pred), y)), training, self.encoder))
        for extra in self.losses:  # weight regularisers of the encoder, and what a layer adds with `add_loss`
            loss = loss + ops.cast(extra, loss.dtype)
        return loss / replicas()  # each has the loss of the joined batch, and Keras adds up their gradients

    def training_loss(self, step: Step):
        """The loss of a step with all methods around it."""
        wrapped: Callable[[Step], Any] = self.plain_loss
        for method in reversed(self.methods if step.training else []):
            wrapped = partial(method.loss, inner=wrapped)
        return wrapped(step)

    def plain_loss(self, step: Step):
        """The loss of a step without any method around it.

        Raises:
            UsageError: E_LOSS_VALUE, if the layer gives anything but a scalar floating tensor.
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
            f"Expected a scalar floating tensor from `call` of {type(layer).__name__}. Received: {received}.",
        )
