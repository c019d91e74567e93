"""Retrieval on classes that training never sees: what early stopping looks at."""

from collections.abc import Sequence

import keras
import numpy as np

from anchorage.data.batches import Store
from anchorage.errors import DataError
from anchorage.retrieval.metrics import evaluate_retrieval
from anchorage.training.distribution import predict_rows

METRICS = ("recall@1", "map@r")
_SHORTEST = 1e-12  # a row shorter than this has no direction


def embed_store(model: keras.Model, store: Store, batch_size: int = 256) -> np.ndarray:
    """Directions `(M, D)` of the embeddings of all images of a store, in row order: rows of unit length.

    Retrieval goes by the cosine, also where the lengths of the embeddings mean something to the loss.
    """
    outputs = predict_rows(model, store, np.arange(len(store)), batch_size)
    vectors = np.asarray(outputs["embeddings"] if isinstance(outputs, dict) else outputs, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _SHORTEST)


def validate(
    model: keras.Model, store: Store, metrics: Sequence[str] = METRICS, batch_size: int = 256
) -> dict[str, float]:
    """Retrieval metrics of a model on a store, in [0, 1].

    Raises:
        DataError: E_SPLIT_EMPTY if the store is empty, E_NO_RELEVANT if no class in it has two images.
    """
    if not len(store):
        raise DataError("E_SPLIT_EMPTY", "Expected images to validate on. Received: an empty `validation_store`.")
    vectors = embed_store(model, store, batch_size)
    return evaluate_retrieval(vectors, store.labels, store.roles, metrics=metrics).values
