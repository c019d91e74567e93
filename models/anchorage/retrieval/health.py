"""The health of a space: how many dimensions it uses, how evenly it is filled, and whether a few items crowd answers.

Effective rank: exp of the entropy of the singular values' shares (Roy & Vetterli, EUSIPCO 2007), of the centred
embeddings. Alignment and uniformity: Wang & Isola, ICML 2020, with alpha = t = 2. Hubness: skewness of the k-occurrence
(Radovanovic, Nanopoulos & Ivanovic, JMLR 2010). Trustworthiness of a map: Venna & Kaski, ICANN 2001.
"""

from typing import Any

import numpy as np

from anchorage.retrieval.pairs import EDGES, PairStatistics

_HUBS = 10
_MAP_NEIGHBORS = 5
_FEWEST = 50  # rows that make a map worth drawing


def effective_rank(vectors: np.ndarray) -> dict[str, Any]:
    """How many dimensions a space uses.

    Args:
        vectors: `(M, D)` embeddings.

    Returns:
        `effective_rank` from 0 (one point) to D, `dimension`, and `spectrum`: `(D,)` shares of the singular values of
        the centred embeddings, largest first.
    """
    centred = np.asarray(vectors, np.float64) - np.mean(vectors, axis=0, dtype=np.float64)
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(centred.T @ centred)[::-1], 0.0))
    values[values < 1e-6 * np.linalg.norm(vectors)] = 0.0  # what rounding leaves of a flat direction
    total = values.sum()
    if not total:
        return {"effective_rank": 0.0, "dimension": len(values), "spectrum": [0.0] * len(values)}
    shares = values / total
    used = shares[shares > 0]
    rank = float(np.exp(-(used * np.log(used)).sum()))
    return {"effective_rank": rank, "dimension": len(values), "spectrum": shares.tolist()}


def hubness(neighbor_rows: np.ndarray, gallery_rows: np.ndarray) -> dict[str, Any]:
    """How unevenly the gallery turns up among the k nearest.

    Args:
        neighbor_rows: `(Q, k)` rows of the table, one answer per query.
        gallery_rows: `(M,)` rows of the table that can be found.

    Returns:
        `k`; `skewness` of the k-occurrence (0: even; above 1: hubs); `never_found`, the share of the gallery in no
        answer; `hubs`: the ten rows found most often, each `row` and `times`; `histogram`: `times` found (0, 1, 2-3,
        4-7, ... by lower end) and how many `items`.
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
    """Mean squared distance of same-class pairs, and log of the mean of exp(-2 squared distance) over all pairs."""
    squared = 2 - (EDGES[1:] + EDGES[:-1])  # of unit vectors, by the middle of each bin
    every = pairs.positive + pairs.negative
    return {
        "alignment": float((pairs.positive * squared).sum() / max(1, pairs.positive.sum())),
        "uniformity": float(np.log((every * np.exp(-2 * squared)).sum() / max(1, every.sum()))),
    }


def draw_map(vectors: np.ndarray, *, seed: int, most: int = 1000) -> dict[str, Any] | None:
    """A flat map of the space by t-SNE, with a number that says how far to trust it.

    Args:
        vectors: `(M, D)` embeddings.
        seed: draws the rows and begins the map.
        most: rows on the map, at most.

    Returns:
        `rows` of the table, `x`, `y`, `method`, `seed` and `trustworthiness`: 1 where the five nearest on the map are
        near in the space, too; None for fewer than 50 rows.
    """
    if len(vectors) < _FEWEST:
        return None
    from sklearn.manifold import TSNE, trustworthiness
    from threadpoolctl import threadpool_limits

    rows = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:most])
    chosen = np.asarray(vectors[rows], np.float32)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    with threadpool_limits(1):  # the map then repeats on any number of processors, and small work waits for none
        flat = TSNE(2, perplexity=perplexity, init="pca", max_iter=500, random_state=seed).fit_transform(chosen)
    return {
        "rows": rows.tolist(),
        "x": np.round(flat[:, 0], 3).tolist(),
        "y": np.round(flat[:, 1], 3).tolist(),
        "method": f"t-SNE, perplexity {perplexity:.0f}",
        "seed": seed,
        "trustworthiness": float(trustworthiness(chosen, flat, n_neighbors=_MAP_NEIGHBORS)),
    }
