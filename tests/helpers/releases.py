"""Tiny releases, made without a run of the pipeline: the model shrinks an image to 4 x 4 pixels, or fewer."""

import hashlib
import io
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from anchorage.data.images import load_image
from anchorage.release import fingerprint_model, publish_release
from anchorage.retrieval.index import save_index
from anchorage.retrieval.index_building import SHARD_ROWS, build_index
from anchorage.retrieval.table import Embeddings, write_ids

SIZE = 4
COLORS = ("red", "blue")


class Shrink(tf.Module):
    """Images to unit vectors of `rows * size * 3` numbers; `gain` changes its fingerprint, not the numbers."""

    def __init__(self, rows=SIZE, gain=1.0, size=SIZE):
        super().__init__()
        self.rows, self.size = min(rows, size), size
        self.gain = tf.Variable(gain)
        pixels = tf.TensorSpec([None, size, size, 3], tf.uint8, name="images")
        self.embed_pixels = tf.function(self._embed_pixels, input_signature=[pixels])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="images")])
    def embed(self, images):
        pixels = tf.map_fn(lambda data: load_image(data, self.size, "squash"), images, fn_output_signature=tf.uint8)
        return self.embed_pixels(tf.ensure_shape(pixels, (None, self.size, self.size, 3)))

    def _embed_pixels(self, images):
        flat = tf.reshape(tf.cast(images[:, : self.rows], tf.float32), (-1, self.rows * self.size * 3)) - 127.5
        return {"embeddings": tf.linalg.l2_normalize(self.gain * flat, axis=1)}


def save_shrink(folder, **arguments):
    """Copy the saved `Shrink(**arguments)` to a new folder, and return it; it is saved once a process."""
    kept, model = _saved(tuple(arguments.items()))
    shutil.copytree(Path(kept.name) / "model", folder)
    return model


@cache
def _saved(arguments):
    model, kept = Shrink(**dict(arguments)), tempfile.TemporaryDirectory()
    signatures = {"serving_default": model.embed, "pixels": model.embed_pixels}
    tf.saved_model.save(model, str(Path(kept.name) / "model"), signatures=signatures)
    return kept, model


def draw_images(count=12, seed=3):
    """Random pictures of 4 x 4 pixels, which the model takes as they are."""
    return [encode(pixels) for pixels in np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)]


def save_text_encoder(folder, images):
    """Save an encoder of texts: token t stands for gallery image t. `number_tokens` is its tokenizer."""
    model = Shrink()
    vectors = tf.constant(model.embed(tf.constant(images))["embeddings"].numpy())

    class Look(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
        def embed(self, token_ids):
            return {"embeddings": tf.gather(vectors, token_ids[:, 0])}

    text = Look()
    tf.saved_model.save(text, str(folder), signatures={"serving_default": text.embed})
    return folder


def number_tokens(texts):
    return np.array([[int(text)] for text in texts])


def encode(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def publish_tiny(
    folder,
    images,
    *,
    gain=1.0,
    size=SIZE,
    calibration=None,
    data_root=None,
    report=True,
    extra=None,
    shard_rows=SHARD_ROWS,
):
    """Publish a release of these images in `folder/releases`: ids are `class-N/N.png`, three classes, two colours.

    Its model resizes images to `size * size` pixels. `extra` are more files of the release.

    Returns:
        The version.
    """
    work = folder / f"made-{gain}-{len(list(folder.glob('made-*')))}"
    work.mkdir(parents=True)
    model = save_shrink(work / "model", gain=gain, size=size)
    vectors = model.embed(tf.constant(images))["embeddings"].numpy()
    fingerprint = fingerprint_model(work / "model")
    index = build_index(vectors, neighbors=3, shard_rows=shard_rows)
    save_index(index, work / "index", vectors, model_fingerprint=fingerprint, image_size=size, fit="squash")
    labels = [f"class-{number % 3}" for number in range(len(images))]
    ids = [f"{label}/{number}.png" for number, label in enumerate(labels)]
    if data_root is not None:
        for name, image in zip(ids, images, strict=True):
            (data_root / name).parent.mkdir(parents=True, exist_ok=True)
            (data_root / name).write_bytes(image)
    texts = {"id": ids, "label": labels, "role": ["both"] * len(ids), "split": ["test"] * len(ids)}
    columns = {name: np.array(values, object) for name, values in texts.items()}
    colors = np.array([COLORS[number % 2] for number in range(len(ids))], object)
    digests = [hashlib.sha256(load_image(image, size, "squash").numpy().tobytes()).hexdigest() for image in images]
    write_ids(work / "ids", Embeddings(*columns.values(), vectors, {"color": colors}), digests)
    files = {"gallery.parquet": work / "ids", "thresholds.json": b'{"likely_match": {"threshold": 0.9}}'}
    if calibration is not None:
        files["calibration.json"] = json.dumps(calibration).encode()
    if report:
        files["report/report.html"] = b"<!doctype html><title>Report</title>"
    files |= extra or {}
    return publish_release(
        folder / "releases",
        model_folder=work / "model",
        index_folder=work / "index",
        files=files,
        facts={
            "name": "tiny",
            "experiment": {"name": "tiny", "encoder": {"name": "small"}, "loss": None},
            "metrics": {"recall@1": 0.9},
            "intervals": {"recall@1": [0.8, 0.95]},
            "data_root": str(data_root or ""),
        },
    )


CALIBRATION = {
    "probability": {"neighbors": 3, "temperature": 0.1, "intercept": -1.0, "similarity": 2.0, "agreement": 0.0},
    "unknown": {"threshold": 0.5},
    "check": {
        "probability": {"holds": True, "statement": "Holds: so well."},
        "unknown": {
            "holds": True,
            "statement": "Holds: as well.",
            "false_accept": {"value": 0.125},
            "answered": {"value": 0.75},
        },
    },
}
