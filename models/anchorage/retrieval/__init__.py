"""Nearest-neighbor search over embeddings, and metrics of retrieval, verification and clustering."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anchorage.retrieval.clustering import cluster_metrics
    from anchorage.retrieval.metrics import RetrievalResult, evaluate_retrieval
    from anchorage.retrieval.neighbors import nearest_neighbors

__all__ = [
    "RetrievalResult",
    "cluster_metrics",
    "evaluate_retrieval",
    "nearest_neighbors",
]

# Imported on first use, so that reading an embedding table does not load the metrics.
_HOMES = {
    "RetrievalResult": "metrics",
    "cluster_metrics": "clustering",
    "evaluate_retrieval": "metrics",
    "nearest_neighbors": "neighbors",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"anchorage.retrieval.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'anchorage.retrieval' has no attribute {name!r}")
