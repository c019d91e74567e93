"""Baselines without training: raw pixels, the untrained network, and the features of its pretrained trunk.

A trained model should beat them. They embed the same decoded and resized images as training and serving.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anchorage.retrieval.table import Embeddings, read_table
from anchorage.vectors import unit_vectors

if TYPE_CHECKING:
    import keras

    from anchorage.data.batches import Store

NAMES = {
    "vectors": "given vectors",
    "pixels": "raw pixels",
    "network": "untrained network",
    "features": "pretrained features",
}

_SIDE = 32  # pixels
_ROWS = 1024  # images in memory at once


def embed_pixels(store: "Store", side: int = _SIDE) -> np.ndarray:
    """Embed all images of a store as centered grayscale pixels `(M, side * side)` float32 of unit length, in row order.

    Images are converted to grayscale and downsampled by averaging, and the mean of each is subtracted, so the inner
    product of two rows is the correlation of their pixels. A constant image is a row of zeros.
    """
    from PIL import Image

    rows = np.empty((len(store), side * side), np.float32)
    for start in range(0, len(store), _ROWS):
        images = store.read(np.arange(start, min(start + _ROWS, len(store))))
        for row, image in zip(rows[start:], images, strict=False):
            grey = Image.fromarray(image).convert("L").resize((side, side), Image.Resampling.BOX)
            row[:] = np.asarray(grey, np.float32).ravel()
    rows -= rows.mean(axis=1, keepdims=True)
    return unit_vectors(rows)


def embed_raw(store: "Store") -> tuple[str, np.ndarray]:
    """Name and embeddings of the baseline that no network is needed for: the given vectors, or raw pixels."""
    if store.spec.dimension:
        return "vectors", unit_vectors(store.read(np.arange(len(store))))
    return "pixels", embed_pixels(store)


@contextmanager
def untrained_encoders(
    encoder: "keras.Model", start_weights: Sequence[np.ndarray], *, pretrained: bool
) -> Iterator[dict[str, "keras.Model"]]:
    """Restore the encoder's initial weights within the `with` block, and its trained weights afterwards.

    Args:
        encoder: model from `(N, S, S, 3)` pixels to embeddings.
        start_weights: the result of its `get_weights` before the first step.
        pretrained: whether its trunk was initialized with pretrained weights.

    Yields:
        Models by name: `network`, the encoder; if the encoder has a single pretrained trunk, also `features`, its class
        token or the global average of its last feature map.
    """
    import keras

    trained_weights = encoder.get_weights()
    encoder.set_weights(start_weights)
    trunk = next((layer for layer in encoder.layers if layer.name == "trunk"), None)
    models = {"network": encoder}
    if pretrained and trunk is not None:
        pooled = trunk.output
        if len(pooled.shape) == 4:
            pooled = keras.layers.GlobalAveragePooling2D(dtype="float32", name="mean")(pooled)
        models["features"] = keras.Model(trunk.input, pooled, name="features")
    try:
        yield models
    finally:
        encoder.set_weights(trained_weights)


def read_untrained(folder: str | Path, split: str) -> dict[str, Embeddings]:
    """Read the embedding tables of the baselines in a folder, by the names that the report shows."""
    paths = {name: Path(folder) / f"{file}.parquet" for file, name in NAMES.items()}
    return {name: read_table(path, [split]) for name, path in paths.items() if path.is_file()}
