"""Export of the trained encoder as a SavedModel for TensorFlow Serving: image bytes or vectors in, embeddings out."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import keras

from anchorage.data.store import RecordSpec
from anchorage.encoders.digest import digest_architecture, digest_weights
from anchorage.encoders.hub import merge_lora
from anchorage.inference import named_outputs
from anchorage.release.fingerprint import write_identity
from anchorage.serving.warmup import write_warmup


def export_encoder(encoder: keras.Model, folder: str | os.PathLike, spec: RecordSpec) -> None:
    """Write a SavedModel whose signatures include the decoding and resizing of training.

    Signatures, all with the output `embeddings` `(N, D)` float32:

        serving_default   images: (N,) strings, encoded images; for an encoder of vectors, vectors: (N, V) float32
        examples          examples: (N,) strings, serialized tf.Examples with `image/encoded` or `vector`
        pixels            images: (N, S, S, 3) uint8, decoded and resized; not for vectors
        convert           pixels or vectors, for N of 1 and more: the encoder alone, for `anchorage export model`

    The first two also have the output `valid` `(N,)` bool. It is False, and the embedding is zero, for an image that is
    empty, damaged, cut off, too large (see `anchorage.data.images`) or of no known format, for a vector with NaN,
    infinity or zeros only, and for an example without image or vector. The other rows of the batch are not affected.

    Args:
        encoder: model from `(N, S, S, 3)` pixels in 0..255, or from `(N, V)` vectors, to `(N, D)` embeddings, or to a
            dict with `"embeddings"`.
        folder: target folder, which must be empty. `identity.json` is also written to it: two exports of one encoder
            have the same fingerprint although their files differ; and the requests that TensorFlow Serving warms up
            with, see `anchorage.serving.warmup`.
        spec: shape and type of the training records.
    """
    import tensorflow as tf

    from anchorage.data.examples import IMAGE, VECTOR
    from anchorage.data.tolerant import load_valid, try_each

    records = tf.TensorSpec((None, *spec.shape), spec.dtype, name="vectors" if spec.dimension else "images")
    images = tf.TensorSpec((None,), tf.string, name="images")
    examples = tf.TensorSpec((None,), tf.string, name="examples")

    # Like `convert`, traced once for all signatures.
    @tf.function(input_signature=[images])
    def load(images):
        return load_valid(images, spec.image_size, spec.fit)

    # Without control flow: LiteRT runs no convolution after the `tf.cond` below, and OpenVINO 2026.4 answers its first
    # call with each batch size wrongly.
    @tf.function(input_signature=[records])
    def convert(records):
        outputs = encoder(records, training=False)
        return {"embeddings": tf.cast(named_outputs(outputs)["embeddings"], tf.float32)}

    def embed(records):
        rows = tf.shape(records)[0]
        # TensorFlow's oneDNN convolution returns a wrong shape for an empty batch: embed one black image instead.
        records = tf.cond(rows > 0, lambda: records, lambda: tf.zeros((1, *spec.shape), spec.dtype))
        return {"embeddings": convert(records)["embeddings"][:rows]}

    def embed_valid(records, valid):
        embeddings = embed(records)["embeddings"]
        return {"embeddings": tf.where(valid[:, None], embeddings, 0.0), "valid": valid}

    def embed_images(images):
        return embed_valid(*load(images))

    def embed_vectors(vectors):
        finite = tf.reduce_all(tf.math.is_finite(vectors), 1)
        return embed_valid(vectors, tf.logical_and(finite, tf.reduce_any(vectors != 0, 1)))

    def embed_examples(examples):
        name, content = (VECTOR, records) if spec.dimension else (IMAGE, images)
        features = {name: tf.io.FixedLenFeature(content.shape[1:], content.dtype)}
        contents, _ = try_each(
            lambda example: tf.io.parse_single_example(example, features)[name],
            examples,
            content.shape[1:],
            content.dtype,
        )
        return embed_vectors(contents) if spec.dimension else embed_images(contents)

    encoder = merge_lora(encoder)
    endpoints = {
        "serving_default": (embed_vectors, records) if spec.dimension else (embed_images, images),
        "examples": (embed_examples, examples),
        **({} if spec.dimension else {"pixels": (embed, records)}),
    }
    archive = keras.export.ExportArchive()
    archive.track(encoder)
    signatures = {
        name: archive.add_endpoint(name, function, [inputs]) for name, (function, inputs) in endpoints.items()
    }
    archive.add_endpoint("convert", convert)
    archive.write_out(os.fspath(folder), verbose=False)
    write_warmup(folder, signatures, spec)
    write_identity(os.fspath(folder), {**_content(encoder, spec), "operations": _count_operations(folder)})


def _content(encoder: keras.Model, spec: RecordSpec) -> dict[str, Any]:
    """Return what identifies the exported model, in addition to the operations of its graph."""
    return {"weights": digest_weights(encoder), "architecture": digest_architecture(encoder), **spec.to_dict()}


def _count_operations(folder: str | os.PathLike) -> dict[str, int]:
    """Count the operations in the graph of a SavedModel, including preprocessing."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel.FromString((Path(folder) / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return dict(Counter(node.op for node in nodes))
