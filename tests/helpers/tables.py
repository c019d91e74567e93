"""Tables of embeddings, made of clusters or by hand."""

import numpy as np

from anchorage.retrieval.table import Embeddings


def table_of(vectors, labels, ids=None, roles=None, split="test"):
    """A table of these vectors at unit length."""
    vectors = np.asarray(vectors, np.float32)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    count = len(labels)
    ids = [f"image {row}" for row in range(count)] if ids is None else ids
    text = [ids, labels, ["both"] * count if roles is None else roles, [split] * count]
    return Embeddings(*(np.array(column, object) for column in text), vectors)


def join(*tables):
    """One table of several."""
    columns = [[getattr(table, name) for table in tables] for name in ("ids", "labels", "roles", "splits", "vectors")]
    return Embeddings(*map(np.concatenate, columns))


def clusters(noise, classes=6, per_class=5, split="test", seed=0):
    """A table of noisy clusters: the less noise, the better the model."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, 12))
    labels = [f"{split} class {number}" for number in range(classes) for _ in range(per_class)]
    vectors = np.repeat(centres, per_class, axis=0) + noise * rng.normal(size=(classes * per_class, 12))
    return table_of(vectors, labels, ids=[f"{split}/{row}.png" for row in range(len(labels))], split=split)
