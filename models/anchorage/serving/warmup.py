"""Requests that TensorFlow Serving runs before it serves a model, each with the answer of the exported encoder.

TensorFlow Serving reads `assets.extra/tf_serving_warmup_requests`, a TFRecord file of PredictionLog messages, and
ignores the answers in it. With the answers a program can find out whether a server has this very model. The messages
are few and small, so they are encoded here, without the package of TensorFlow Serving.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anchorage.data.examples import Example, encode_example
from anchorage.data.store import RecordSpec

WARMUP = "assets.extra/tf_serving_warmup_requests"

_IMAGES = 4
_SIDES = ((96, 64), (64, 96), (48, 48), (80, 60))  # width and height of the images


def write_warmup(folder: str | os.PathLike, signatures: Mapping[str, Callable[..., Any]], spec: RecordSpec) -> None:
    """Write the warm-up requests of a SavedModel, one image or vector and then four of them for each signature.

    Args:
        folder: the SavedModel.
        signatures: functions of the signatures "serving_default", "examples" and "pixels" by name; each takes its only
            input by position.
        spec: shape and type of the training records.
    """
    import tensorflow as tf

    inputs = _inputs(spec)
    path = Path(folder) / WARMUP
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, function in signatures.items():
            argument, values = inputs[name]
            for count in (1, len(values)):
                batch = tf.constant(values[:count])
                writer.write(_prediction_log(name, argument, batch, function(batch)))


def sample_images() -> list[bytes]:
    """Make four small images that differ in colors and shapes, JPEG and PNG in turn; always the same ones."""
    import tensorflow as tf

    random = np.random.default_rng(0)
    images = []
    for number, (width, height) in enumerate(_SIDES):
        corners = tf.constant(random.uniform(0, 255, (3 + number, 3, 3)), tf.float32)
        pixels = tf.cast(tf.image.resize(corners, (height, width)), tf.uint8)
        images.append(tf.io.encode_png(pixels) if number % 2 else tf.io.encode_jpeg(pixels, quality=95))
    return [image.numpy() for image in images]


def _inputs(spec: RecordSpec) -> dict[str, tuple[str, Any]]:
    """Return name and values of the input of each signature."""
    if spec.dimension:
        vectors = np.random.default_rng(0).normal(size=(len(_SIDES), spec.dimension)).astype(np.float32)
        contents: list[Any] = list(vectors)
        default: tuple[str, Any] = ("vectors", vectors)
        pixels: dict[str, tuple[str, Any]] = {}
    else:
        from anchorage.data.images import load_image

        contents = sample_images()
        default = ("images", contents)
        pixels = {"pixels": ("images", np.stack([load_image(c, spec.image_size, spec.fit) for c in contents]))}
    examples = [encode_example(Example(f"warm-up {n}", "", "query", content)) for n, content in enumerate(contents)]
    return {"serving_default": default, "examples": ("examples", examples), **pixels}


def _prediction_log(signature: str, argument: str, batch: Any, outputs: Mapping[str, Any]) -> bytes:
    """Encode a PredictionLog of tensorflow_serving/apis/prediction_log.proto."""
    request = _field(1, _field(3, signature.encode())) + _field(2, _entry(argument, batch))
    response = b"".join(_field(1, _entry(name, value)) for name, value in sorted(outputs.items()))
    return _field(6, _field(1, request) + _field(2, response))


def _entry(name: str, value: Any) -> bytes:
    """Encode an entry of a map from names to tensors."""
    import tensorflow as tf

    return _field(1, name.encode()) + _field(2, tf.make_tensor_proto(value).SerializeToString(deterministic=True))


def _field(number: int, content: bytes) -> bytes:
    """Encode a field of a protocol buffer that holds bytes or a message."""
    length, rest = [], len(content)
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes([8 * number + 2, *length, rest]) + content
