"""A second export of a release: encoder and index in one SavedModel, with ScaNN's own operations.

Encoded images or vectors go in, ids, labels and similarities of the nearest gallery items come out. Stock TensorFlow
Serving has no operations of ScaNN and cannot load it: a program must import `scann` before it does. The release itself
has none of these operations.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from anchorage.errors import GateError, UsageError
from anchorage.release import Release
from anchorage.retrieval.index import load_vectors
from anchorage.retrieval.neighbors import nearest_neighbors
from anchorage.retrieval.table import read_ids

_PROBES = 256  # gallery rows used as queries when measuring recall
_CANDIDATES = 12  # rows whose exact similarity is computed, per neighbor, at least
_TRAINING_ROWS = 250_000


def export_search(release: Release, folder: str | os.PathLike, neighbors: int = 10) -> float:
    """Write a SavedModel that searches the gallery of a release.

    Its signature `serving_default` takes `images` `(N,)` strings or `vectors` `(N, V)` float32, as that of the release,
    and returns `ids` and `labels` `(N, k)` strings and `scores` `(N, k)` float32, nearest first, and `valid` `(N,)`
    bool, False for a bad record. ScaNN's operations have no SOAR and are built anew, with as many leaves searched as
    the recall of the release's index needs; `k` is `neighbors` or the size of the gallery.

    Args:
        release: a verified release.
        folder: target folder; must not exist or be empty.
        neighbors: number of results per query.

    Returns:
        The share of true neighbors that it finds, in [0, 1].

    Raises:
        UsageError: `E_NEIGHBORS`; `E_FOLDER_NOT_EMPTY`.
        GateError: `E_INDEX_RECALL` if it finds fewer true neighbors than the index of the release must.
    """
    if neighbors < 1:
        raise UsageError("E_NEIGHBORS", f"Expected `neighbors` of at least 1. Received: {neighbors}")
    if Path(folder).is_dir() and any(Path(folder).iterdir()):
        raise UsageError("E_FOLDER_NOT_EMPTY", f"Expected a fresh folder for the model. Received: {folder}")
    import tensorflow as tf
    from scann.scann_ops.py import scann_ops

    facts = release.manifest["index"]
    vectors = np.ascontiguousarray(load_vectors(release.index_folder))
    gallery = read_ids(release.gallery_path)
    k = min(neighbors, len(vectors))
    searcher = _build(vectors, k, facts)
    leaves, recall = _tune(searcher, vectors, k, facts)

    module = tf.Module()
    module.encoder = tf.saved_model.load(str(release.path))
    module.index = searcher.serialize_to_module()
    module.ids = tf.Variable(gallery["id"].tolist(), trainable=False)
    module.labels = tf.Variable(gallery["label"].tolist(), trainable=False)
    encode = module.encoder.signatures["serving_default"]
    ((name, record),) = encode.structured_input_signature[1].items()

    def search(records: Any) -> dict[str, Any]:
        outputs = encode(**{name: records})
        embeddings = outputs["embeddings"]
        # ScaNN refuses an empty batch.
        queries = tf.concat([embeddings, tf.zeros((1, tf.shape(embeddings)[1]))], 0)
        rows, scores = scann_ops.searcher_from_module(module.index).search_batched(
            queries, **_arguments(k, facts, leaves)
        )
        rows, scores = tf.ensure_shape(rows[:-1], (None, k)), tf.ensure_shape(scores[:-1], (None, k))
        valid = outputs.get("valid", tf.ones_like(embeddings[:, 0], tf.bool))
        return {
            "ids": tf.gather(module.ids, rows),
            "labels": tf.gather(module.labels, rows),
            "scores": scores,
            "valid": valid,
        }

    signature = tf.function(search, input_signature=[tf.TensorSpec(record.shape, record.dtype, name=name)])
    module.search = signature
    tf.saved_model.save(module, os.fspath(folder), signatures={"serving_default": signature})
    return recall


def _build(vectors: np.ndarray, k: int, facts: dict[str, Any]) -> Any:
    from scann.scann_ops.py import scann_ops

    builder = scann_ops.builder(vectors, k, "dot_product")
    if facts["kind"] == "brute_force":
        return builder.score_brute_force().build()
    sample = min(len(vectors), _TRAINING_ROWS)
    tree = builder.tree(facts["leaves"], facts["leaves_to_search"], training_sample_size=sample)
    return tree.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(_CANDIDATES * k).build()


def _arguments(k: int, facts: dict[str, Any], leaves: int) -> dict[str, int]:
    if facts["kind"] == "brute_force":
        return {"final_num_neighbors": k}
    candidates = max(_CANDIDATES * k, facts["reorder"])
    return {"final_num_neighbors": k, "pre_reorder_num_neighbors": candidates, "leaves_to_search": leaves}


def _tune(searcher: Any, vectors: np.ndarray, k: int, facts: dict[str, Any]) -> tuple[int, float]:
    """Double the leaves to search until the recall is that of the release; return them and the recall."""
    probes = np.random.default_rng(0).permutation(len(vectors))[:_PROBES]
    _, similarities = nearest_neighbors(vectors[probes], vectors, k)
    least = similarities[:, -1:] - 1e-5
    leaves = facts["leaves_to_search"]
    while True:
        rows, _ = searcher.search_batched(vectors[probes], **_arguments(k, facts, leaves))
        found = np.einsum("nkd,nd->nk", vectors[rows.numpy()], vectors[probes])
        recall = float((found >= least).mean())
        if recall >= facts["min_recall"]:
            return leaves, recall
        if leaves >= facts["leaves"]:
            raise GateError(
                "E_INDEX_RECALL",
                f"Expected an index that finds at least {facts['min_recall']} of the true {k} nearest rows. Received: "
                f"{recall:.4f} with all {leaves} leaves searched",
            )
        leaves = min(2 * leaves, facts["leaves"])
