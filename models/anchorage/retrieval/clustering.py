"""How well k-means finds the classes again: NMI, AMI and the F1 of pairs.

NMI and AMI with the arithmetic mean of both entropies (Vinh, Epps & Bailey, JMLR 2010). F1: precision and recall of the
pairs of images that lie in one cluster, as pairs of one class (Song et al., CVPR 2016). These numbers hang on the
clustering as much as on the space; Musgrave, Belongie & Lim (ECCV 2020) advise against ranking methods by them.
"""

from typing import Any

import numpy as np

from anchorage.errors import DataError

_EXACT_WORK = 50_000_000  # rows x clusters up to which every row is compared with every centre in every round
_BATCH = 4096


def cluster_metrics(
    vectors: np.ndarray, labels: np.ndarray, *, clusters: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Cluster the space by k-means and compare the clusters with the classes.

    Args:
        vectors: `(M, D)` embeddings.
        labels: `(M,)` classes, numbers or names.
        clusters: how many to look for; None: as many as there are classes.
        seed: of the first centres, and of the batches where there are any.

    Returns:
        `nmi`, `ami` (at most 1, 0 is chance), `f1`, and how it was done: `clusters`, `images`, `method`, `seed`.

    Raises:
        DataError: `E_CLUSTERS` if there are fewer images than clusters.
    """
    codes = np.unique(np.asarray(labels), return_inverse=True)[1]
    wanted = int(codes.max(initial=-1)) + 1 if clusters is None else clusters
    if not 1 <= wanted <= len(vectors):
        raise DataError("E_CLUSTERS", f"Expected from 1 to {len(vectors)} clusters. Received: {wanted}")
    found, method = _cluster(np.asarray(vectors, np.float32), wanted, seed)
    return {**compare_clusters(codes, found), "clusters": wanted, "images": len(codes), "method": method, "seed": seed}


def compare_clusters(labels: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """NMI, AMI and F1 of an assignment to clusters."""
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import pair_confusion_matrix

    (_, apart), (torn, together) = pair_confusion_matrix(labels, clusters).tolist()  # pairs counted twice, so is 2TP
    found = 2 * together + apart + torn
    return {
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ami": float(adjusted_mutual_info_score(labels, clusters)),
        "f1": 2 * together / found if found else 1.0,
    }


def _cluster(vectors: np.ndarray, clusters: int, seed: int) -> tuple[np.ndarray, str]:
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # threads add up in an order of their own: with one, a seed repeats anywhere
        if len(vectors) * clusters <= _EXACT_WORK:
            return KMeans(clusters, n_init=3, max_iter=100, random_state=seed).fit_predict(vectors), "k-means"
        size = max(_BATCH, 2 * clusters)
        batches = MiniBatchKMeans(clusters, n_init=1, batch_size=size, init="random", max_iter=20, random_state=seed)
        return batches.fit_predict(vectors), f"k-means in batches of {size:,}"
