"""The nearest of some rows of a matrix, by comparing each of them: for few rows, and to measure an index against."""

import numpy as np

_BLOCK = 65_536  # rows per product


def best_rows(queries: np.ndarray, vectors: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest of the given rows for each query.

    Args:
        queries: `(N, D)` float32.
        vectors: `(M, D)` float32, in memory or mapped.
        k: number of results.
        rows: `(m,)` row numbers to compare, ascending.

    Returns:
        Rows `(N, min(k, m))` int64 and their inner products, float32, nearest first; ties in row order.
    """
    k = min(k, len(rows))
    best = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    for start in range(0, len(rows) if k else 0, _BLOCK):
        part = rows[start : start + _BLOCK]
        products = queries @ _gather(vectors, part).T
        if len(part) > 4 * k:
            near = np.sort(np.argpartition(products, -k, axis=1)[:, -k:], axis=1)
        else:
            near = np.broadcast_to(np.arange(len(part)), products.shape)
        best = np.concatenate([best, part[near].astype(np.int64)], axis=1)
        scores = np.concatenate([scores, np.take_along_axis(products, near, axis=1)], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best, scores = np.take_along_axis(best, order, axis=1), np.take_along_axis(scores, order, axis=1)
    return best, scores


def _gather(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    if rows[-1] - rows[0] == len(rows) - 1:  # one piece, which needs no copy
        return vectors[rows[0] : rows[-1] + 1]
    return vectors[rows]
