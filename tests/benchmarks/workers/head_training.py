"""Short trainings of a projection on cached features, for `../tuning.py`.

`anchorage.training` would build, trace and check a new Keras model for every trial, which takes three CPU seconds for
half a second of steps. Here one graph per batch size and kind of loss serves all trials of a process, with the numbers
of the loss as its inputs. Losses, samplers and metrics are those of the project.
"""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from anchorage.data.sampling import ClassBatches
from anchorage.losses import create_loss
from anchorage.retrieval.metrics import evaluate_retrieval
from anchorage.vectors import unit_vectors

DIMENSION = 128


class HeadTrainings:
    """Trains a projection to unit vectors with AdamW, whose rate falls linearly to 0.

    Args:
        store: features of the training classes.
        validation_store: features of other classes.
        loss: name of the loss.
    """

    def __init__(self, store: Any, validation_store: Any, loss: str):
        self._loss, self._labels = loss, store.labels
        self._features = tf.constant(store.read(np.arange(len(store))), tf.float32)
        self._validation = validation_store, validation_store.read(np.arange(len(validation_store)))
        self._weights = tf.Variable(tf.zeros((self._features.shape[1], DIMENSION)))
        self._optimizer = keras.optimizers.AdamW()
        self._optimizer.build([self._weights])
        self._epochs: dict[Any, Callable] = {}

    def train(
        self,
        params: Mapping[str, Any],
        classes: int,
        per_class: int,
        *,
        steps: int,
        epochs: int,
        rate: float,
        seed: int,
    ) -> list[float]:
        """Train from the start and return MAP@R on the validation classes after each epoch.

        Args:
            params: of the loss.
            classes: of a batch.
            per_class: rows of each of them.
            steps: of an epoch.
            epochs: number of epochs.
            rate: learning rate of the first step.
            seed: of the weights and the batches.
        """
        self._weights.assign(keras.initializers.GlorotUniform(seed=seed)(self._weights.shape))
        for variable in self._optimizer.variables:
            variable.assign(tf.zeros_like(variable))
        sampler = ClassBatches(self._labels, classes, per_class, seed)
        rates = np.linspace(rate, 0.0, steps * epochs, endpoint=False, dtype=np.float32)
        numbers = {name: tf.constant(value, tf.float32) for name, value in params.items() if isinstance(value, float)}
        others = {name: value for name, value in params.items() if name not in numbers}
        run_epoch = self._graph(others, tuple(sorted(numbers)), classes)
        curve = []
        for epoch in range(epochs):
            chosen = range(epoch * steps, (epoch + 1) * steps)
            rows = tf.constant(np.stack([sampler.batch(step) for step in chosen]))
            run_epoch(rows, tf.constant(rates[chosen.start : chosen.stop]), numbers)
            curve.append(self._judge())
        return curve

    def _judge(self) -> float:
        store, features = self._validation
        vectors = unit_vectors(features @ self._weights.numpy())
        return evaluate_retrieval(vectors, store.labels, store.roles, metrics=["map@r"]).values["map@r"]

    def _graph(self, params: dict[str, Any], numbers: tuple[str, ...], classes: int) -> Callable:
        key = (*sorted(params.items()), numbers, classes)
        if key not in self._epochs:
            self._epochs[key] = self._trace(create_loss(self._loss, params))
        return self._epochs[key]

    def _trace(self, loss: keras.layers.Layer) -> Callable:
        labels = tf.constant(self._labels, tf.int32)

        @tf.function
        def run_epoch(rows, rates, numbers):
            for name, number in numbers.items():
                setattr(loss, name, number)
            for step in tf.range(tf.shape(rows)[0]):
                with tf.GradientTape() as tape:
                    vectors = tf.math.l2_normalize(tf.gather(self._features, rows[step]) @ self._weights, axis=1)
                    cost = loss(vectors, tf.gather(labels, rows[step]))
                self._optimizer.learning_rate.assign(rates[step])
                self._optimizer.apply(tape.gradient(cost, [self._weights]), [self._weights])

        return run_epoch
