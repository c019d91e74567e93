"""Training without labels on clusters of the network's own embeddings: the pseudo-supervised mode of paper 05.

Kan et al., TPAMI 2022, claim it and publish no code of it; the recipe is ours, after Caron et al., ECCV 2018.
"""

from functools import partial

import keras
import numpy as np

from anchorage.checks import check_at_least_one
from anchorage.data.relabelled import LabelledRows
from anchorage.errors import UsageError
from anchorage.inference import embed_rows
from anchorage.learner import MetricLearner
from anchorage.procedures.procedure import Procedure, Task, best_result, join_results
from anchorage.training.building import create_network
from anchorage.training.run import TrainRun

_BLOCK = 4096  # rows compared with all centres at once


class PseudoClusters(Procedure):
    """Clusters the embeddings, trains some epochs on the clusters as classes, and clusters again.

    The labels of the training classes are not looked at; those of the validation classes choose the best round, if
    there are any. The first round clusters what the encoder gives before any training: with random weights that is
    little, so start from stored ones where there are some. Each round starts from the encoder of the round before
    with a fresh loss, since its clusters are others, and runs through the learning-rate schedule anew. A cluster
    of a single image is left out: nothing in it is alike. Every round leaves `clusters-<round>.parquet` beside the
    logs: id and cluster.

    Args:
        num_pseudo_classes: clusters wanted, at least 2.
        refresh_every: epochs of a round; `training.epochs` is the sum over all rounds.
        seed: of the first centres.

    Raises:
        ValueError: on a parameter out of range.
    """

    def __init__(self, num_pseudo_classes: int, refresh_every: int, seed: int = 0):
        check_at_least_one(num_pseudo_classes=num_pseudo_classes - 1, refresh_every=refresh_every)
        self.num_pseudo_classes, self.refresh_every, self.seed = num_pseudo_classes, refresh_every, seed

    def run(self, task: Task):
        keras.utils.set_random_seed(task.settings.seed)
        encoder = create_network(task.settings.encoder, task.store.spec.image_size)
        runs: list[TrainRun] = []
        left = task.settings.training.epochs
        while left > 0:
            number, epochs = len(runs), min(self.refresh_every, left)
            store = self._clustered(task, encoder, number)
            start = partial(_start_from, encoder.get_weights())
            run = task.train(
                f"round-{number}",
                store=store,
                seed=task.settings.seed + number,
                prepare=start,
                keep_start=not runs,  # later rounds start from the result of an earlier one
                epochs=epochs,
            )
            runs.append(run)
            encoder, left = runs[-1].learner.encoder, left - epochs
        results = [run.result for run in runs]
        best = best_result(results)
        return runs[best]._replace(result=join_results(results, best))

    def _clustered(self, task: Task, encoder: keras.Model, number: int) -> LabelledRows:
        vectors = embed_rows(encoder, task.store, np.arange(len(task.store)))
        clusters = spherical_kmeans(vectors, self.num_pseudo_classes, seed=self.seed)
        sizes = np.bincount(clusters, minlength=self.num_pseudo_classes)
        names = np.flatnonzero(sizes >= 2)
        rows = np.flatnonzero(sizes[clusters] >= 2)
        task.write_table(f"clusters-{number}", {"id": task.store.ids[rows].astype(str), "cluster": clusters[rows]})
        return LabelledRows(
            task.store, rows, np.searchsorted(names, clusters[rows]), [f"cluster-{name}" for name in names]
        )


def _start_from(weights: list[np.ndarray], learner: MetricLearner) -> None:
    learner.encoder.set_weights(weights)


def spherical_kmeans(vectors: np.ndarray, count: int, seed: int, rounds: int = 50) -> np.ndarray:
    """Clusters of rows by direction: a row belongs to the centre with the largest cosine.

    A centre is the mean direction of its rows. The first centres are chosen by k-means++. A centre that loses all its
    rows moves to the row that lies farthest from its own centre.

    Args:
        vectors: `(M, D)`.
        count: clusters, at most M.
        seed: of the first centres.
        rounds: most rounds; it ends earlier when no row changes its cluster.

    Returns:
        `(M,)` int64 numbers below `count`.

    Raises:
        UsageError: E_TOO_FEW_RECORDS if there are fewer rows than clusters.
    """
    from sklearn.cluster import kmeans_plusplus

    if len(vectors) < count:
        raise UsageError(
            "E_TOO_FEW_RECORDS",
            f"Expected at least as many images as clusters. Received: {len(vectors)} images, "
            f"num_pseudo_classes={count}",
        )
    rows = np.asarray(vectors, np.float32)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    centers, _ = kmeans_plusplus(rows, count, random_state=seed)
    clusters, cosines = _nearest(rows, centers)
    for _ in range(rounds):
        sums = np.zeros_like(centers)
        np.add.at(sums, clusters, rows)
        empty = np.flatnonzero(np.bincount(clusters, minlength=count) == 0)
        sums[empty] = rows[np.argsort(cosines, kind="stable")[: len(empty)]]
        centers = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        before = clusters
        clusters, cosines = _nearest(rows, centers)
        if np.array_equal(before, clusters):
            break
    return clusters


def _nearest(rows: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The centre with the largest cosine, the first of equals, and that cosine."""
    clusters, cosines = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK] @ centers.T
        clusters[start : start + _BLOCK] = np.argmax(part, axis=1)
        cosines[start : start + _BLOCK] = np.max(part, axis=1)
    return clusters, cosines
