"""TFX components: each reads artifacts, calls `anchorage`, and writes artifacts."""

import importlib

_ARTIFACTS = (
    "BaselineRelease",
    "DataAudit",
    "EmbeddingTable",
    "Release",
    "RetrievalIndex",
    "RetrievalReport",
    "UntrainedEmbeddings",
)

__all__ = [*_ARTIFACTS]


def __getattr__(name: str):
    # Kubeflow imports the artifact types from this package by name; importing TFX each time would take half a minute.
    if name in _ARTIFACTS:
        return getattr(importlib.import_module("anchorage_components.artifacts"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
