"""The signatures of a release, by the names of TensorFlow Serving."""

from functools import lru_cache
from pathlib import Path
from typing import Any

MODEL = "anchorage"  # the name under which the releases are served
DEFAULT = "serving_default"
SIGNATURES = (DEFAULT, "examples", "pixels", "convert")


@lru_cache(maxsize=8)
def read_signatures(folder: Path) -> dict[str, Any]:
    """Read the SignatureDefs that are served from the SavedModel of a release."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    signatures = saved.meta_graphs[0].signature_def
    return {name: signatures[name] for name in SIGNATURES if name in signatures}
