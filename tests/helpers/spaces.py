"""Embedding spaces for the tests of retrieval, and metrics by their definition."""

import numpy as np


def measure(ordered, name):
    """The definition of one metric for one query: `ordered` says which items, nearest first, are relevant."""
    kind, _, k = name.replace("map@r", "map_r").partition("@")
    total = sum(ordered)
    if kind == "recall":
        return float(any(ordered[: int(k)]))
    if kind == "precision":
        return sum(ordered[: int(k)]) / int(k)
    if kind == "r_precision":
        return sum(ordered[:total]) / total
    if kind == "map_r":
        return sum(sum(ordered[: i + 1]) / (i + 1) for i in range(total) if ordered[i]) / total
    if kind == "map":
        return sum(sum(ordered[: i + 1]) / (i + 1) for i in range(len(ordered)) if ordered[i]) / total
    if kind == "mrr":
        return 1 / (ordered.index(True) + 1)
    gains = [1 / np.log2(i + 2) for i in range(int(k))]
    found = sum(g for g, hit in zip(gains, ordered, strict=False) if hit)
    return found / sum(gains[: min(total, int(k))])


def spread(angles):
    """Unit vectors at the given angles in degrees."""
    radians = np.deg2rad(np.asarray(angles, "float64"))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype("float32")


def clustered(rng, rows, classes, dim=12):
    """Unit vectors around the centres of classes drawn at random, and their labels."""
    labels = rng.integers(0, classes, rows)
    vectors = rng.normal(size=(classes, dim))[labels] + 0.9 * rng.normal(size=(rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32"), labels


def clustered_rows(rows, dim=16, seed=0):
    """Unit vectors, ten around each of many centres."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(max(1, rows // 10), dim))
    vectors = centers[rng.integers(0, len(centers), rows)] + 0.4 * rng.normal(size=(rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")
