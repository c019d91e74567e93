"""Deep metric learning in plain Keras; does not import TFX or kfp."""

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anchorage.encoders import create_encoder
    from anchorage.learner import MetricLearner
    from anchorage.losses import LOSSES, create_loss
    from anchorage.training.run import load_learner

    __version__: str

__all__ = ["LOSSES", "MetricLearner", "__version__", "create_encoder", "create_loss", "load_learner"]

# Imported on first use, so that `anchorage.release` and other light modules do not load Keras.
_HOMES = {
    "LOSSES": "anchorage.losses",
    "MetricLearner": "anchorage.learner",
    "create_encoder": "anchorage.encoders",
    "create_loss": "anchorage.losses",
    "load_learner": "anchorage.training.run",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":  # only in pyproject.toml: a copy here would change the cache key of every node
        try:
            return metadata.version("anchorage")
        except metadata.PackageNotFoundError:  # a checkout that was never installed
            return "0+unknown"
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'anchorage' has no attribute {name!r}")
