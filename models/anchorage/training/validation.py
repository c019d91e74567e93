"""Retrieval metrics on the validation classes, for early stopping."""

from collections.abc import Sequence

import keras

from anchorage.data.batches import Store
from anchorage.errors import DataError
from anchorage.inference import embed_store
from anchorage.retrieval.metrics import evaluate_retrieval

METRICS = ("recall@1", "map@r")
MONITOR = "map@r"  # chooses the best epoch


def validate(model: keras.Model, store: Store, metrics: Sequence[str] = METRICS) -> dict[str, float]:
    """Compute retrieval metrics of a model on a store, in [0, 1].

    Raises:
        DataError: E_SPLIT_EMPTY if the store is empty, E_NO_RELEVANT if no class in it has two images.
    """
    if not len(store):
        raise DataError("E_SPLIT_EMPTY", "Expected images to validate on. Received: an empty `validation_store`.")
    vectors = embed_store(model, store)
    return evaluate_retrieval(vectors, store.labels, store.roles, metrics=metrics).values
