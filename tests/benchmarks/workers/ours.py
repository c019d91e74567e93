"""Steps of this project's losses on one thread, for `tests/benchmarks/losses.py`."""

import os
import sys

os.environ.update(KERAS_BACKEND="tensorflow", TF_CPP_MIN_LOG_LEVEL="3")


import keras
import numpy as np
import tensorflow as tf
from memory import cap_data
from serve import serve

from anchorage.losses import create_loss


def product(rows, others):
    return tf.matmul(rows, others, transpose_b=True)


# Lower bounds: the product that every loss of a kind needs, forward and backward.
FLOORS = {
    "similarity matrix": product,
    "batch x proxies": product,
    "inverse": lambda rows, others: tf.linalg.inv(rows),
}
GRAPH_PROXIES = 50  # rows beside the batch in the graph of the manifold loss


def prepare(order):
    batch = np.load(order["batch"])
    embeddings, labels = tf.constant(batch["embeddings"]), tf.constant(batch["labels"])
    floor, loss = FLOORS.get(order["loss"]), None
    if floor is None:
        loss = create_loss(order["loss"], order["params"], num_classes=order["classes"])
        loss(keras.KerasTensor(embeddings.shape), keras.KerasTensor(labels.shape, dtype="int32"))
    others = tf.constant(batch["proxies"]) if order["loss"] == "batch x proxies" else embeddings
    if order["loss"] == "inverse":
        size = len(embeddings) + GRAPH_PROXIES
        embeddings = others = tf.eye(size) + tf.random.stateless_uniform((size, size), (0, 0), maxval=1 / size)
    upstream = tf.ones((len(embeddings), len(others)))

    def step(rows, labels, others):
        with tf.GradientTape() as tape:
            tape.watch([rows, others])
            if loss is not None:
                value = loss(rows, labels)
                return value, tape.gradient(value, [rows, *loss.trainable_variables])
            below = floor(rows, others)
        return below, tape.gradient(below, [rows, others], output_gradients=upstream, unconnected_gradients="zero")

    # Call the traced function directly, as within a compiled training step, without dispatch by arguments.
    others = tf.identity(others)
    compiled = tf.function(step, jit_compile=order["xla"]).get_concrete_function(embeddings, labels, others)
    return lambda: compiled(embeddings, labels, others)


if __name__ == "__main__":
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    cap_data(int(float(sys.argv[1]) * 2**30))
    serve(prepare)
