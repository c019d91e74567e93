"""Embed images in inference mode: one batch, selected rows of a store, or a whole store."""

from typing import Any

import keras
import numpy as np

from anchorage.data.batches import Store, evaluation_batches
from anchorage.progress import advance, task
from anchorage.vectors import unit_vectors

_TASK = "embedding"


def named_outputs(outputs) -> dict:
    """Return the outputs of an encoder by name; a single tensor is named `embeddings`."""
    return outputs if isinstance(outputs, dict) else {"embeddings": outputs}


def embed(encoder: keras.Model, images):
    """Return the `(N, D)` embeddings of a batch in inference mode, without the encoder's other outputs."""
    return named_outputs(encoder(images, training=False))["embeddings"]


def predict_rows(model: keras.Model, store: Store, rows: np.ndarray, batch_size: int = 256) -> Any:
    """Run `model.predict` on selected rows of a store and return its outputs in the order of `rows`.

    Args:
        model: encoder or learner; the replicas of its distribution strategy share the work.
        store: holds the images.
        rows: `(M,)` integer row numbers.
        batch_size: images per batch, rounded up to a multiple of the number of replicas.

    Returns:
        The output of `predict`: an array `(M, ...)` or a nested structure of such arrays.
    """
    strategy = getattr(model, "distribute_strategy", None)  # only models on the TensorFlow backend have one
    count = 1 if strategy is None else strategy.num_replicas_in_sync
    # Pad to a multiple of the replicas: one without rows fails, and `predict_on_batch` gives all rows to each of them.
    padded = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % count)])
    batch_size += -batch_size % count
    images = batch_size * model.steps_per_execution
    report = keras.callbacks.LambdaCallback(on_predict_batch_end=lambda batch, logs: advance(_TASK, images))
    with task(_TASK, len(padded)):
        outputs = model.predict(evaluation_batches(store, batch_size, padded), callbacks=[report], verbose=0)
    return keras.tree.map_structure(lambda output: np.asarray(output)[: len(rows)], outputs)


def embed_rows(encoder: keras.Model, store: Store, rows: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Embed selected rows of a store; the embeddings are not normalized.

    Args:
        encoder: the network, or a learner, whose encoder for evaluation is used.
        store: holds the images.
        rows: integers of any shape; a repeated row is embedded once.
        batch_size: images per batch.

    Returns:
        `(*rows.shape, D)` float32.
    """
    unique_rows, inverse = np.unique(rows, return_inverse=True)
    outputs = predict_rows(encoder, store, unique_rows, batch_size)
    embeddings = np.asarray(named_outputs(outputs)["embeddings"], np.float32)
    return embeddings[inverse.reshape(np.shape(rows))]


def embed_store(model: keras.Model, store: Store, batch_size: int = 256) -> np.ndarray:
    """Embed all images of a store, in row order, and normalize the `(M, D)` embeddings to unit length.

    Retrieval uses the cosine similarity, even if the loss uses the norms of the embeddings.
    """
    outputs = predict_rows(model, store, np.arange(len(store)), batch_size)
    return unit_vectors(np.asarray(named_outputs(outputs)["embeddings"], np.float32))
