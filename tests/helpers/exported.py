"""Tiny releases with the signatures of the exporter, and pictures for them."""

import io
import shutil
import tempfile
from functools import cache
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from anchorage.data.store import RecordSpec
from anchorage.release import fingerprint_model, publish_release
from anchorage.retrieval.index import save_index
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.table import Embeddings, write_ids
from anchorage.serving.export import export_encoder

SIDE, DIM = 6, 5


def picture(seed, kind="PNG", size=(40, 30), mode="RGB", **options):
    """Encoded noise in coarse blocks, so that JPEG keeps it roughly."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
    (image if mode == "RGB" else image.convert(mode)).save(buffer, kind, **options)
    return buffer.getvalue()


def publish_two(folder, seeds=(0, 1)):
    """Publish two releases with the encoders of these seeds, the second current; return the folder of releases."""
    for seed in seeds:
        publish_exported(folder, seed)
    return folder / "releases"


def publish_exported(folder, seed=0, count=8):
    """Publish a release of `count` pictures in `folder/releases`, with an encoder of this seed; return its version."""
    work = folder / f"exported-{seed}"
    kept, model = exported_model(seed)
    shutil.copytree(Path(kept.name) / "model", work / "model")
    images = [picture(number) for number in range(count)]
    vectors = model.signatures["serving_default"](images=tf.constant(images))["embeddings"].numpy()
    fingerprint = fingerprint_model(work / "model")
    facts = {"model_fingerprint": fingerprint, "image_size": SIDE, "fit": "crop"}
    save_index(build_index(vectors, neighbors=2), work / "index", **facts)
    texts = [np.array([f"{name} {number}" for number in range(count)], object) for name in ("item", "class")]
    both = np.array(["both"] * count, object)
    write_ids(work / "ids", Embeddings(*texts, both, both, vectors))
    files = {"gallery.parquet": work / "ids"}
    return publish_release(
        folder / "releases", model_folder=work / "model", index_folder=work / "index", files=files, facts={}
    )


@cache
def exported_model(seed):
    """A temporary folder with the exported encoder of this seed, and the model loaded from it; once a process."""
    kept = tempfile.TemporaryDirectory()
    encoder = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3)),
            keras.layers.Rescaling(1 / 127.5, offset=-1),
            keras.layers.Flatten(),
            keras.layers.Dense(DIM, kernel_initializer=keras.initializers.RandomNormal(seed=seed)),
            keras.layers.UnitNormalization(),
        ]
    )
    export_encoder(encoder, Path(kept.name) / "model", RecordSpec(SIDE, "crop"))
    return kept, tf.saved_model.load(str(Path(kept.name) / "model"))
