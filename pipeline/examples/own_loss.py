"""Define a loss as a Keras layer, called as `loss(embeddings, labels)`; train with it, save and load it.

    python pipeline/examples/own_loss.py [FOLDER]

An experiment file names it by its module: `[loss] name = "own_loss:CentreLoss"`, with `params = { push = 1.0 }`.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import ops

from anchorage import MetricLearner, load_learner


@keras.saving.register_keras_serializable(package="my_lab")
class CentreLoss(keras.layers.Layer):
    """Pulls embeddings towards the mean of their class in the batch, and pushes the means of two classes apart.

    Args:
        push: squared distance beyond which two class means are not pushed apart.
    """

    def __init__(self, push: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.push = push

    def call(self, embeddings, labels):
        same = ops.cast(labels[:, None] == labels[None, :], embeddings.dtype)
        centres = ops.matmul(same / ops.sum(same, axis=1, keepdims=True), embeddings)  # of each row's class
        pull = ops.mean(ops.sum(ops.square(embeddings - centres), axis=1))
        apart = ops.sum(ops.square(centres[:, None] - centres[None, :]), axis=-1)
        return pull + ops.mean((1 - same) * ops.relu(self.push - apart))

    def get_config(self):
        return {**super().get_config(), "push": self.push}


if __name__ == "__main__":
    keras.utils.set_random_seed(1)
    labels = np.arange(120) % 6
    rows = np.random.default_rng(1).standard_normal((120, 16)).astype("float32") + np.eye(6, 16)[labels]
    encoder = keras.Sequential([keras.Input((16,)), keras.layers.Dense(4), keras.layers.UnitNormalization()])
    learner = MetricLearner(encoder, CentreLoss(push=2.0))
    learner.compile(optimizer=keras.optimizers.Adam(0.02))
    losses = learner.fit(rows, labels, batch_size=40, epochs=20, verbose=0).history["loss"]
    print(f"loss: {losses[0]:.3f} in the first epoch, {losses[-1]:.3f} in the last")

    file = Path(sys.argv[1] if len(sys.argv) > 1 else ".") / "learner.keras"
    learner.save(file)
    print(f"loaded with push={load_learner(file).loss_layer.push}")
