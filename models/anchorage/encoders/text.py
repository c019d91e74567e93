"""Text encoders of image-text presets, such as CLIP and SigLIP, for search by description."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from anchorage.encoders.hub import PREFIX, check_folder, import_hub

_KEPT = {".json", ".model", ".spm", ".txt"}  # what tokenizers consist of; the weights of the preset stay behind


def export_text_encoder(encoder: Mapping[str, Any], folder: Path) -> bool:
    """Write the text encoder of a preset as a SavedModel, with what its tokenizer needs beside it.

    Its signature `serving_default` maps `token_ids` `(N, T)` int32 to `embeddings` `(N, D)` of unit length.

    Args:
        encoder: encoder section of an experiment, with `name` and `weights`.
        folder: where to; must not exist yet.

    Returns:
        Whether there is one; only then anything is written.
    """
    source = check_folder(encoder["name"], encoder["weights"])
    hub = import_hub()
    backbone = hub.models.Backbone.from_preset(str(source))
    if not hasattr(backbone, "get_text_embeddings") or not any(source.glob("tokenizer*.json")):
        return False
    import tensorflow as tf

    token_ids = keras.Input((None,), dtype="int32", name="token_ids")
    rows = keras.layers.UnitNormalization(dtype="float32")(backbone.get_text_embeddings(token_ids))
    model = keras.Model(token_ids, rows)
    archive = keras.export.ExportArchive()
    archive.track(model)
    signature = [tf.TensorSpec((None, None), tf.int32, name="token_ids")]
    archive.add_endpoint("serving_default", lambda token_ids: {"embeddings": model(token_ids)}, signature)
    archive.write_out(str(folder), verbose=False)
    for path in source.rglob("*"):
        if path.suffix in _KEPT:
            target = folder / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return True


def takes_text(encoder: Mapping[str, Any]) -> bool:
    """Whether texts can be searched with: embeddings are what the preset itself gives, not a projection of it."""
    head = (encoder.get("head") or {}).get("name")
    return encoder["name"].startswith(PREFIX) and head == "identity" and encoder.get("pooling") == "token"


def load_tokenizer(folder: Path) -> Callable[[Sequence[str]], Any]:
    """A function from texts to `token_ids` `(N, T)`, from what `export_text_encoder` wrote."""
    hub = import_hub()
    preprocessor = hub.models.CausalLMPreprocessor.from_preset(str(folder), image_converter=None)
    return lambda texts: preprocessor({"prompts": list(texts), "images": None})["token_ids"]
