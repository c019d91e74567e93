"""Listwise self-distillation: Zeng, Yang, Wang & Satoh, arXiv 2206.08880, 2022, and its published code."""

import keras
from keras import ops

from anchorage.checks import check_positive
from anchorage.geometry import dot_products, lowest
from anchorage.inference import embed
from anchorage.methods.method import Method


@keras.saving.register_keras_serializable(package="anchorage")
class ListwiseSelfDistillation(Method):
    """Distils the similarities within a batch from the network of the previous epoch, one list per anchor.

    Formula, with `S` the inner products of the embeddings of the batch, `U` those of the same images under the teacher,
    the network at the end of the previous epoch, `e` the zero-based epoch and `E` the number of epochs:

        p_i = softmax_j(U_ij / temperature)      q_i = softmax_j(S_ij / temperature)
        loss = inner + e/E * weight * temperature^2 * mean_i sum_j p_ij (log p_ij - log q_ij)

    Embeddings are not normalized here and should have unit norm. The first epoch uses the inner loss only, the last one
    the factor (E - 1)/E, as in the code. The teacher runs in inference mode on the augmented images of the step.

    Needs memory for the weights of the teacher, and one more forward pass per step. If another method appends synthetic
    rows to the batch, only the rows of real images enter the divergence.

    Args:
        epochs: number of epochs E, positive.
        weight: `a` in the paper, at least 0.
        temperature: `tau` in the paper, positive.
        include_self: include the anchor in its own list.
        negative_scale: factor on similarities between different classes, positive; with 1, labels are not used.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        epochs: int,
        weight: float = 50.0,
        temperature: float = 1.0,
        include_self: bool = True,
        negative_scale: float = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(epochs=epochs, temperature=temperature, negative_scale=negative_scale)
        if weight < 0:
            raise ValueError(f"`weight` must not be negative. Received: weight={weight}")
        self.epochs = epochs
        self.weight = weight
        self.temperature = temperature
        self.include_self = include_self
        self.negative_scale = negative_scale
        self._signs = [keras.metrics.Mean(name=f"distillation_{name}") for name in ("base_loss", "divergence", "share")]

    def prepare(self, learner):
        self.teacher = type(learner.encoder).from_config(learner.encoder.get_config())
        self.teacher.trainable = False
        self.teacher.set_weights(learner.encoder.get_weights())
        self.epoch = self.add_weight(name="epoch", shape=(), dtype="int32", initializer="zeros", trainable=False)

    def loss(self, step, inner):
        base = inner(step)
        teacher_embeddings = embed(self.teacher, step.inputs)
        rows = ops.shape(teacher_embeddings)[0]
        divergence = listwise_divergence(
            step.embeddings[:rows],
            teacher_embeddings,
            step.labels[:rows],
            temperature=self.temperature,
            include_self=self.include_self,
            negative_scale=self.negative_scale,
        )
        share = ops.cast(self.epoch, "float32") / self.epochs
        for metric, value in zip(self._signs, (base, divergence, share), strict=True):
            metric.update_state(value)
        return base + share * (self.weight * self.temperature**2) * divergence

    def after_epoch(self, context, logs):
        self.teacher.set_weights(context.learner.encoder.get_weights())
        self.epoch.assign_add(1)

    def get_config(self):
        names = ("epochs", "weight", "temperature", "include_self", "negative_scale")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def listwise_divergence(
    embeddings, teacher_embeddings, labels, *, temperature=1.0, include_self=True, negative_scale=1.0
):
    """Mean over the anchors of the Kullback-Leibler divergence from the teacher's list to the student's.

    Args:
        embeddings: `(N, D)` float tensor, unit vectors.
        teacher_embeddings: `(N, D')` float tensor of the same images; no gradient flows into it.
        labels: `(N,)` integer tensor; not used if `negative_scale` is 1.
        temperature: of both softmaxes.
        include_self: include the anchor in its own list.
        negative_scale: factor on similarities between different classes.

    Returns:
        Non-negative scalar; 0 for empty lists.
    """
    labels = ops.convert_to_tensor(labels)
    rows = ops.arange(ops.shape(labels)[0])
    listed = ops.logical_or(include_self, ops.not_equal(rows[:, None], rows[None, :]))

    embeddings = ops.convert_to_tensor(embeddings)
    dtype = "float64" if keras.backend.standardize_dtype(embeddings.dtype) == "float64" else "float32"

    def log_probabilities(x):
        x = ops.cast(x, dtype)
        logits = dot_products(x, x) / temperature
        if negative_scale != 1:
            logits = ops.where(labels[:, None] == labels[None, :], logits, negative_scale * logits)
        return ops.log_softmax(ops.where(listed, logits, lowest(logits)), axis=1)

    teacher = log_probabilities(ops.stop_gradient(ops.convert_to_tensor(teacher_embeddings)))
    student = log_probabilities(embeddings)
    divergences = ops.where(listed, ops.exp(teacher) * (teacher - student), 0.0)
    return ops.sum(divergences) / ops.cast(ops.maximum(ops.shape(labels)[0], 1), divergences.dtype)
