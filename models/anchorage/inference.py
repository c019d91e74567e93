"""Embeddings of images by a network in evaluation mode: of a batch, of rows of a store, of a whole store."""

from typing import Any

import keras
import numpy as np

from anchorage.data.batches import Store, evaluation_batches

_SHORTEST = 1e-12  # a row shorter than this has no direction


def named_outputs(outputs) -> dict:
    """What an encoder gives, by name: a lone tensor is `embeddings`."""
    return outputs if isinstance(outputs, dict) else {"embeddings": outputs}


def embed(encoder: keras.Model, images):
    """The `(N, D)` embeddings that an encoder gives in evaluation, whatever else it gives."""
    return named_outputs(encoder(images, training=False))["embeddings"]


def predict_rows(model: keras.Model, store: Store, rows: np.ndarray, batch_size: int = 256) -> Any:
    """What a model gives in evaluation for the images of some rows of a store, in their order.

    Args:
        model: encoder or learner; the replicas of its strategy share the work.
        store: where the images are.
        rows: `(M,)` integers.
        batch_size: images embedded at once, more where replicas cannot share it evenly.

    Returns:
        What its `predict` gives: an array `(M, ...)` or a structure of such.
    """
    strategy = getattr(model, "distribute_strategy", None)  # of TensorFlow's models
    count = 1 if strategy is None else strategy.num_replicas_in_sync
    # A replica that is dealt no row fails, and in `predict_on_batch` each is dealt all of them.
    dealt = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % count)])
    outputs = model.predict(evaluation_batches(store, batch_size + -batch_size % count, dealt), verbose=0)
    return keras.tree.map_structure(lambda output: np.asarray(output)[: len(rows)], outputs)


def embed_rows(encoder: keras.Model, store: Store, rows: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Embeddings of the images of some rows of a store, as they leave the encoder in evaluation.

    Args:
        encoder: the network, or a learner for the one that it judges.
        store: where the images are.
        rows: integers of any shape; a row that comes twice is embedded once.
        batch_size: images at a time.

    Returns:
        `(*rows.shape, D)` float32.
    """
    once, places = np.unique(rows, return_inverse=True)
    outputs = predict_rows(encoder, store, once, batch_size)
    embeddings = np.asarray(named_outputs(outputs)["embeddings"], np.float32)
    return embeddings[places.reshape(np.shape(rows))]


def embed_store(model: keras.Model, store: Store, batch_size: int = 256) -> np.ndarray:
    """Directions `(M, D)` of the embeddings of all images of a store, in row order: rows of unit length.

    Retrieval goes by the cosine, also where the lengths of the embeddings mean something to the loss.
    """
    outputs = predict_rows(model, store, np.arange(len(store)), batch_size)
    vectors = np.asarray(named_outputs(outputs)["embeddings"], np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _SHORTEST)
