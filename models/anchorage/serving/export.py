"""Export of the trained encoder as a SavedModel for TensorFlow Serving: image bytes or vectors in, embeddings out."""

import hashlib
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import keras

from anchorage.data.store import RecordSpec
from anchorage.encoders.hub import merge_lora
from anchorage.inference import named_outputs
from anchorage.release.fingerprint import write_identity

_COUNTED = re.compile(r'_\d+"')


def export_encoder(encoder: keras.Model, folder: str | os.PathLike, spec: RecordSpec) -> None:
    """Write a SavedModel whose signatures include the decoding and resizing of training.

    Signatures, all with the output `embeddings` `(N, D)` float32:

        serving_default   images: (N,) strings, encoded images; for an encoder of vectors, vectors: (N, V) float32
        pixels            images: (N, S, S, 3) uint8, decoded and resized; not for vectors

    Args:
        encoder: model from `(N, S, S, 3)` pixels in 0..255, or from `(N, V)` vectors, to `(N, D)` embeddings, or to a
            dict with `"embeddings"`.
        folder: target folder, which must be empty. `identity.json` is also written to it: two exports of one encoder
            have the same fingerprint although their files differ.
        spec: shape and type of the training records.
    """
    import tensorflow as tf

    from anchorage.data.images import load_image

    def embed(records):
        rows = tf.shape(records)[0]
        # TensorFlow's oneDNN convolution returns a wrong shape for an empty batch: embed one black image instead.
        records = tf.cond(rows > 0, lambda: records, lambda: tf.zeros((1, *spec.shape), spec.dtype))
        outputs = encoder(records, training=False)
        embeddings = named_outputs(outputs)["embeddings"]
        return {"embeddings": tf.cast(embeddings, tf.float32)[:rows]}

    def embed_bytes(images):
        pixels = tf.map_fn(
            lambda image: load_image(image, spec.image_size, spec.fit),
            images,
            fn_output_signature=tf.TensorSpec(spec.shape, tf.uint8),
        )
        return embed(pixels)

    encoder = merge_lora(encoder)
    archive = keras.export.ExportArchive()
    archive.track(encoder)
    name = "vectors" if spec.dimension else "images"
    records = tf.TensorSpec((None, *spec.shape), spec.dtype, name=name)
    if spec.dimension:
        archive.add_endpoint("serving_default", embed, [records])
    else:
        archive.add_endpoint("serving_default", embed_bytes, [tf.TensorSpec((None,), tf.string, name=name)])
        archive.add_endpoint("pixels", embed, [records])
    archive.write_out(os.fspath(folder), verbose=False)
    write_identity(os.fspath(folder), {**_content(encoder, spec), "operations": _count_operations(folder)})


def _content(encoder: keras.Model, spec: RecordSpec) -> dict[str, Any]:
    """Return what identifies the exported model, in addition to the operations of its graph.

    Weights are listed in the order of the encoder, and numbers at the end of layer names are removed, since they depend
    on the layers that the process has created before.
    """
    weights = [[w.dtype, list(w.shape), hashlib.sha256(_bytes(w)).hexdigest()] for w in encoder.weights]
    config = json.dumps(keras.saving.serialize_keras_object(encoder), sort_keys=True, default=str)
    architecture = hashlib.sha256(_COUNTED.sub('"', config).encode()).hexdigest()
    return {"weights": weights, "architecture": architecture, **spec.to_dict()}


def _bytes(weight: keras.Variable) -> bytes:
    return keras.ops.convert_to_numpy(weight).tobytes()


def _count_operations(folder: str | os.PathLike) -> dict[str, int]:
    """Count the operations in the graph of a SavedModel, including preprocessing."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel.FromString((Path(folder) / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return dict(Counter(node.op for node in nodes))
