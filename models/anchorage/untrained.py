"""Baselines that learned nothing from the training images: raw pixels, the network before its first step, its trunk.

A training that does not beat them was not worth it. They are encoders like any other, over the images as training and
serving decode and resize them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anchorage.retrieval.table import Embeddings, read_table

if TYPE_CHECKING:
    import keras

    from anchorage.data.batches import Store

NAMES = {"pixels": "raw pixels", "network": "untrained network", "features": "pretrained features"}

_SIDE = 32  # pixels
_ROWS = 1024  # images in memory at once
_SHORTEST = 1e-12  # a row shorter than this has no direction


def embed_pixels(store: "Store", side: int = _SIDE) -> np.ndarray:
    """Directions `(M, side * side)` float32 of the grey pixels of all images of a store, in row order.

    An image is made grey, brought to `side` pixels by averaging, and freed of its mean: an inner product of two rows is
    the correlation of their pixels. A picture of one grey has no direction and stays a row of zeros.
    """
    from PIL import Image

    rows = np.empty((len(store), side * side), np.float32)
    for start in range(0, len(store), _ROWS):
        images = store.read(np.arange(start, min(start + _ROWS, len(store))))
        for row, image in zip(rows[start:], images, strict=False):
            grey = Image.fromarray(image).convert("L").resize((side, side), Image.Resampling.BOX)
            row[:] = np.asarray(grey, np.float32).ravel()
    rows -= rows.mean(axis=1, keepdims=True)
    return unit_rows(rows)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows `(M, D)` at unit length; a row of zeros stays one."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _SHORTEST)


@contextmanager
def untrained_encoders(
    encoder: "keras.Model", start_weights: Sequence[np.ndarray], *, pretrained: bool
) -> Iterator[dict[str, "keras.Model"]]:
    """Within the block the encoder is what it was before its first step; afterwards it has its own weights again.

    Args:
        encoder: from `(N, S, S, 3)` pixels to embeddings.
        start_weights: as its `get_weights` gave them before the first step.
        pretrained: whether its trunk began with stored weights.

    Yields:
        `network`, the encoder; and `features`, the mean of the last feature map of a pretrained trunk, where the
        encoder has a single one.
    """
    import keras

    own = encoder.get_weights()
    encoder.set_weights(start_weights)
    trunk = next((layer for layer in encoder.layers if layer.name == "trunk"), None)
    models = {"network": encoder}
    if pretrained and trunk is not None:
        pooled = keras.layers.GlobalAveragePooling2D(dtype="float32", name="mean")(trunk.output)
        models["features"] = keras.Model(trunk.input, pooled, name="features")
    try:
        yield models
    finally:
        encoder.set_weights(own)


def read_untrained(folder: str | Path, split: str) -> dict[str, Embeddings]:
    """Read the tables of a folder, one for each of `NAMES` at most, by the names that the report shows."""
    paths = {name: Path(folder) / f"{file}.parquet" for file, name in NAMES.items()}
    return {name: read_table(path, [split]) for name, path in paths.items() if path.is_file()}
