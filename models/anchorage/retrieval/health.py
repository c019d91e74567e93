"""Diagnostics of an embedding space: effective rank, alignment and uniformity, hubness, and a 2-D map.

Effective rank: exponential of the entropy of the normalized singular values of the centered embeddings (Roy & Vetterli,
EUSIPCO 2007). Alignment and uniformity: Wang & Isola, ICML 2020, with alpha = t = 2. Hubness: skewness of the
k-occurrence (Radovanovic, Nanopoulos & Ivanovic, JMLR 2010). Trustworthiness of a map: Venna & Kaski, ICANN 2001.
"""

from typing import Any

import numpy as np

from anchorage.retrieval.pairs import EDGES, PairStatistics

_HUBS = 10
_MAP_NEIGHBORS = 5
_FEWEST = 50  # least number of rows for a map


def effective_rank(vectors: np.ndarray) -> dict[str, Any]:
    """Compute the effective number of dimensions of embeddings.

    Args:
        vectors: `(M, D)` embeddings.

    Returns:
        `effective_rank` from 0 (all embeddings equal) to D, `dimension`, and `spectrum`: `(D,)` singular values of the
        centered embeddings, normalized to sum 1, largest first.
    """
    centred = np.asarray(vectors, np.float64) - np.mean(vectors, axis=0, dtype=np.float64)
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(centred.T @ centred)[::-1], 0.0))
    values[values < 1e-6 * np.linalg.norm(vectors)] = 0.0  # rounding errors of zero values
    total = values.sum()
    if not total:
        return {"effective_rank": 0.0, "dimension": len(values), "spectrum": [0.0] * len(values)}
    shares = values / total
    used = shares[shares > 0]
    rank = float(np.exp(-(used * np.log(used)).sum()))
    return {"effective_rank": rank, "dimension": len(values), "spectrum": shares.tolist()}


def hubness(neighbor_rows: np.ndarray, gallery_rows: np.ndarray) -> dict[str, Any]:
    """Measure how unevenly gallery items occur among the k nearest neighbors.

    Args:
        neighbor_rows: `(Q, k)` table rows of the neighbors of each query.
        gallery_rows: `(M,)` table rows of the gallery.

    Returns:
        `k`; `skewness` of the k-occurrence (0: even; above 1: hubs); `never_found`, the share of the gallery that is
        nobody's neighbor; `hubs`, the ten most frequent neighbors with `row` and `times`; `histogram`: the k-occurrence
        in bins 0, 1, 2-3, 4-7, ... (`times` is the lower end) and the number of `items` in each.
    """
    times = np.bincount(neighbor_rows.ravel(), minlength=int(gallery_rows.max()) + 1)[gallery_rows]
    spread = times.std()
    ends = [0, *(2**power for power in range(int(times.max()).bit_length()))]
    bins = np.searchsorted(ends, times, side="right") - 1
    top = np.argsort(-times, kind="stable")[:_HUBS]
    return {
        "k": neighbor_rows.shape[1],
        "skewness": float((((times - times.mean()) / spread) ** 3).mean()) if spread else 0.0,
        "never_found": float((times == 0).mean()),
        "hubs": [{"row": int(gallery_rows[at]), "times": int(times[at])} for at in top],
        "histogram": {"times": ends, "items": np.bincount(bins, minlength=len(ends)).tolist()},
    }


def alignment_uniformity(pairs: PairStatistics) -> dict[str, float]:
    """Compute the mean squared distance of same-class pairs, and log of the mean of exp(-2 d^2) over all pairs."""
    squared = 2 - (EDGES[1:] + EDGES[:-1])  # squared distances of unit vectors at the bin centers
    every = pairs.positive + pairs.negative
    return {
        "alignment": float((pairs.positive * squared).sum() / max(1, pairs.positive.sum())),
        "uniformity": float(np.log((every * np.exp(-2 * squared)).sum() / max(1, every.sum()))),
    }


def draw_map(vectors: np.ndarray, *, seed: int, most: int = 1000) -> dict[str, Any] | None:
    """Compute a 2-D t-SNE map of embeddings, with its trustworthiness.

    Args:
        vectors: `(M, D)` embeddings.
        seed: samples the rows and initializes t-SNE.
        most: largest number of rows on the map.

    Returns:
        `rows` of the table, `x`, `y`, `method`, `seed` and `trustworthiness`, which is 1 if the five nearest points on
        the map are also near in the embedding space; None for fewer than 50 rows.
    """
    if len(vectors) < _FEWEST:
        return None
    from sklearn.manifold import TSNE, trustworthiness
    from threadpoolctl import threadpool_limits

    rows = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:most])
    chosen = np.asarray(vectors[rows], np.float32)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    with threadpool_limits(1):  # reproducible on any number of cores, and faster for small inputs
        flat = TSNE(2, perplexity=perplexity, init="pca", max_iter=500, random_state=seed).fit_transform(chosen)
    return {
        "rows": rows.tolist(),
        "x": np.round(flat[:, 0], 3).tolist(),
        "y": np.round(flat[:, 1], 3).tolist(),
        "method": f"t-SNE, perplexity {perplexity:.0f}",
        "seed": seed,
        "trustworthiness": float(trustworthiness(chosen, flat, n_neighbors=_MAP_NEIGHBORS)),
    }
