"""Training without labels on clusters of the embeddings: the pseudo-supervised mode of Kan et al., TPAMI 2022.

Its code is not published; the recipe is ours, after Caron et al., ECCV 2018.
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
from anchorage.vectors import unit_vectors

_BLOCK = 4096  # rows compared with all centres at once


class PseudoClusters(Procedure):
    """Alternates between clustering the embeddings and training with the clusters as classes.

    Labels of the training classes are not used; those of the validation classes, if any, select the best round. The
    first round clusters the embeddings of the untrained encoder, so start from pretrained weights if possible. Each
    further round starts from the previous encoder with a new loss, as the clusters change, and restarts the
    learning-rate schedule. Clusters of a single image are dropped, as they have no positive pairs. Every round writes
    `clusters-<round>.parquet`, with id and cluster, to the log folder.

    Args:
        num_pseudo_classes: number of clusters, at least 2.
        refresh_every: epochs per round, at least 1; `training.epochs` is the total over all rounds.
        seed: of the initial centres.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, num_pseudo_classes: int, refresh_every: int, seed: int = 0):
        check_at_least_one(num_pseudo_classes=num_pseudo_classes - 1, refresh_every=refresh_every)
        self.num_pseudo_classes, self.refresh_every, self.seed = num_pseudo_classes, refresh_every, seed

    def run(self, task: Task):
        keras.utils.set_random_seed(task.settings.seed)
        encoder = create_network(task.settings.encoder, task.store.spec)
        runs: list[TrainRun] = []
        remaining = task.settings.training.epochs
        while remaining > 0:
            number, epochs = len(runs), min(self.refresh_every, remaining)
            run = task.train(
                f"round-{number}",
                store=self._cluster(task, encoder, number),
                seed=task.settings.seed + number,
                prepare=partial(_set_weights, encoder.get_weights()),
                keep_start=not runs,  # later rounds start from a result that is kept
                epochs=epochs,
            )
            runs.append(run)
            encoder, remaining = runs[-1].learner.encoder, remaining - epochs
        results = [run.result for run in runs]
        best = best_result(results)
        return runs[best]._replace(result=join_results(results, best))

    def _cluster(self, task: Task, encoder: keras.Model, number: int) -> LabelledRows:
        """The images labelled by cluster, without clusters of a single image."""
        vectors = embed_rows(encoder, task.store, np.arange(len(task.store)))
        clusters = spherical_kmeans(vectors, self.num_pseudo_classes, seed=self.seed)
        sizes = np.bincount(clusters, minlength=self.num_pseudo_classes)
        kept = np.flatnonzero(sizes >= 2)
        rows = np.flatnonzero(sizes[clusters] >= 2)
        task.write_table(f"clusters-{number}", {"id": task.store.ids[rows].astype(str), "cluster": clusters[rows]})
        names = [f"cluster-{cluster}" for cluster in kept]
        return LabelledRows(task.store, rows, np.searchsorted(kept, clusters[rows]), names)


def _set_weights(weights: list[np.ndarray], learner: MetricLearner) -> None:
    learner.encoder.set_weights(weights)


def spherical_kmeans(vectors: np.ndarray, count: int, seed: int, rounds: int = 50) -> np.ndarray:
    """Spherical k-means: each row belongs to the centre with the largest cosine.

    A centre is the normalized mean of its normalized rows. Initial centres are chosen by k-means++. The centre of an
    empty cluster moves to the row with the smallest cosine to its own centre.

    Args:
        vectors: `(M, D)` float array.
        count: number of clusters, at most M.
        seed: of the initial centres.
        rounds: maximum number of iterations; stops earlier once no row changes its cluster.

    Returns:
        `(M,)` int64 cluster numbers below `count`.

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
    rows = unit_vectors(np.asarray(vectors, np.float32))
    centers, _ = kmeans_plusplus(rows, count, random_state=seed)
    clusters, cosines = _nearest(rows, centers)
    for _ in range(rounds):
        sums = np.zeros_like(centers)
        np.add.at(sums, clusters, rows)
        empty = np.flatnonzero(np.bincount(clusters, minlength=count) == 0)
        sums[empty] = rows[np.argsort(cosines, kind="stable")[: len(empty)]]
        centers = unit_vectors(sums)
        previous = clusters
        clusters, cosines = _nearest(rows, centers)
        if np.array_equal(previous, clusters):
            break
    return clusters


def _nearest(rows: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The centre with the largest cosine, the first on ties, and that cosine."""
    clusters, cosines = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK] @ centers.T
        clusters[start : start + _BLOCK] = np.argmax(block, axis=1)
        cosines[start : start + _BLOCK] = np.max(block, axis=1)
    return clusters, cosines
