"""Exponential moving average of weights: Polyak & Juditsky 1992, with the warm-up of Tarvainen & Valpola 2017."""

import keras
from keras import ops

from anchorage.methods.method import Method


@keras.saving.register_keras_serializable(package="anchorage")
class MovingAverage(Method):
    """Validates and exports an exponential moving average of the encoder weights.

    Formula, for every weight and running statistic `w` of the encoder, before each step `t = 0, 1, ...`:

        average <- d average + (1 - d) w,    d = min(momentum, (1 + t) / (10 + t))

    Training continues with `w`; validation uses the average, which replaces the encoder weights after training.

    Args:
        momentum: in [0, 1); the average covers about `1 / (1 - momentum)` steps.

    Raises:
        ValueError: if `momentum` lies outside [0, 1).
    """

    def __init__(self, momentum: float = 0.99, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must lie in [0, 1). Received: momentum={momentum}")
        self.momentum = momentum

    def prepare(self, learner):
        self.average = keras.models.clone_model(learner.encoder)
        self.average.set_weights(learner.encoder.get_weights())
        self.average.trainable = False
        self.steps = self.add_weight(name="steps", shape=(), initializer="zeros", trainable=False)

    def loss(self, step, inner):
        decay = ops.minimum(self.momentum, (1.0 + self.steps) / (10.0 + self.steps))
        for average, weight in zip(self.average.weights, step.encoder.weights, strict=True):
            average.assign(decay * average + (1.0 - decay) * weight)
        self.steps.assign_add(1.0)
        return inner(step)

    def judged_encoder(self, learner):
        return self.average

    def finish(self, context):
        context.learner.encoder.set_weights(self.average.get_weights())

    def get_config(self):
        return {**super().get_config(), "momentum": self.momentum}
