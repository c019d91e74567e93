"""Clustering metrics of embeddings under k-means: NMI, AMI and pairwise F1.

NMI and AMI use the arithmetic mean of both entropies (Vinh, Epps & Bailey, JMLR 2010). F1 is that of the pairs of
images in one cluster as predictions of pairs of one class (Song et al., CVPR 2016). These metrics depend on the
clustering as much as on the embeddings; Musgrave, Belongie & Lim (ECCV 2020) advise against ranking methods by them.
"""

from typing import Any

import numpy as np

from anchorage.errors import DataError

_EXACT_WORK = 50_000_000  # rows x clusters; above, mini-batch k-means is used
_BATCH = 4096


def cluster_metrics(
    vectors: np.ndarray, labels: np.ndarray, *, clusters: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Cluster embeddings by k-means and compare the clusters with the classes.

    Args:
        vectors: `(M, D)` embeddings.
        labels: `(M,)` classes, numbers or names.
        clusters: number of clusters; None for the number of classes.
        seed: seed of the initial centers and of the mini-batches.

    Returns:
        `nmi`, `ami` (at most 1; 0 is chance level), `f1`, and the settings `clusters`, `images`, `method` and `seed`.

    Raises:
        DataError: `E_CLUSTERS` if there are fewer images than clusters.
    """
    codes = np.unique(np.asarray(labels), return_inverse=True)[1]
    count = int(codes.max(initial=-1)) + 1 if clusters is None else clusters
    if not 1 <= count <= len(vectors):
        raise DataError("E_CLUSTERS", f"Expected from 1 to {len(vectors)} clusters. Received: {count}")
    assigned, method = _cluster(np.asarray(vectors, np.float32), count, seed)
    metrics = compare_clusters(codes, assigned)
    return {**metrics, "clusters": count, "images": len(codes), "method": method, "seed": seed}


def compare_clusters(labels: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """Compute NMI, AMI and F1 of an assignment to clusters."""
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import pair_confusion_matrix

    # Each pair is counted twice in all entries, which cancels out in F1.
    (_, false_positives), (false_negatives, true_positives) = pair_confusion_matrix(labels, clusters).tolist()
    total = 2 * true_positives + false_positives + false_negatives
    return {
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ami": float(adjusted_mutual_info_score(labels, clusters)),
        "f1": 2 * true_positives / total if total else 1.0,
    }


def _cluster(vectors: np.ndarray, clusters: int, seed: int) -> tuple[np.ndarray, str]:
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # several threads sum in varying order; one makes the result reproducible
        if len(vectors) * clusters <= _EXACT_WORK:
            return KMeans(clusters, n_init=3, max_iter=100, random_state=seed).fit_predict(vectors), "k-means"
        size = max(_BATCH, 2 * clusters)
        batches = MiniBatchKMeans(clusters, n_init=1, batch_size=size, init="random", max_iter=20, random_state=seed)
        return batches.fit_predict(vectors), f"k-means in batches of {size:,}"
