"""Metric-learning building blocks in plain Keras; imports neither TFX nor kfp."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anchorage.encoders import create_encoder
    from anchorage.learner import MetricLearner
    from anchorage.losses import LOSSES, create_loss
    from anchorage.training.run import load_learner

__all__ = ["LOSSES", "MetricLearner", "create_encoder", "create_loss", "load_learner"]

# Imported on first use: `anchorage.release` and the like must not wait for Keras.
_HOMES = {
    "LOSSES": "anchorage.losses",
    "MetricLearner": "anchorage.learner",
    "create_encoder": "anchorage.encoders",
    "create_loss": "anchorage.losses",
    "load_learner": "anchorage.training.run",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'anchorage' has no attribute {name!r}")
