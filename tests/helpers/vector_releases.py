"""Small releases without a model that runs, for commands that need only the index and its rows."""

import json
from pathlib import Path

import numpy as np

from anchorage.release import Release, open_release, publish_release
from anchorage.release.fingerprint import fingerprint_model
from anchorage.retrieval.index import save_index
from anchorage.retrieval.index_building import build_index
from anchorage.retrieval.index_tuning import IndexLimits
from anchorage.retrieval.table import Embeddings, write_ids

COLORS = ("red", "blue", "")


def unit_vectors(rows: int, dimension: int = 8, seed: int = 0) -> np.ndarray:
    """Random vectors of unit length."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def publish_vectors(
    folder: Path, vectors: np.ndarray, order: np.ndarray | None = None, facts: dict | None = None
) -> Release:
    """Publish a release with the rows `item 0 ü`, `item 1 ü`, ..., of five classes and the attribute "color".

    Args:
        folder: gets `releases`.
        vectors: rows of the gallery.
        order: order of the ids, where they are to stand beside wrong vectors.
        facts: facts of the manifest.
    """
    model = folder / "model"
    model.mkdir(parents=True)
    (model / "saved_model.pb").write_bytes(b"no graph")
    save_index(
        build_index(vectors, limits=IndexLimits(0.9)), folder / "index", model_fingerprint=fingerprint_model(model)
    )
    numbers = np.arange(len(vectors)) if order is None else order
    names, classes = [f"item {n} ü" for n in numbers], [f"class {n % 5}" for n in numbers]
    columns = (names, classes, ["both"] * len(numbers), ["test"] * len(numbers))
    texts = [np.array(values, object) for values in columns]
    colors = {"color": np.array([COLORS[n % 3] for n in numbers], object)}
    write_ids(folder / "ids", Embeddings(*texts, vectors, colors))
    publish_release(
        folder / "releases",
        model_folder=model,
        index_folder=folder / "index",
        files={"gallery.parquet": folder / "ids", "labels.json": json.dumps([]).encode()},
        facts=facts or {},
    )
    return open_release(folder / "releases")
