"""The nearest of some rows of a matrix, by comparing each of them: for few rows, and to measure an index against."""

import numpy as np

_BLOCK = 65_536  # rows whose products are in memory at once
_PIECE = 131_072  # numbers per product of one query: they stay in a core's cache, and are too few for threads of BLAS


def best_rows(queries: np.ndarray, vectors: np.ndarray, k: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the nearest of the given rows for each query.

    Args:
        queries: `(N, D)` float32.
        vectors: `(M, D)` float32, in memory or mapped; in column order if most of the rows are compared.
        k: number of results.
        rows: `(m,)` row numbers to compare, ascending.

    Returns:
        Rows `(N, min(k, m))` int64 and their inner products, float32, nearest first; ties in row order.
    """
    k = min(k, len(rows))
    best = np.empty((len(queries), 0), np.int64)
    scores = np.empty((len(queries), 0), np.float32)
    each = np.arange(len(queries))[:, None]
    for start in range(0, len(rows) if k else 0, _BLOCK):
        part = rows[start : start + _BLOCK]
        products = _products(queries, vectors, part)
        if len(part) > 4 * k:
            near = np.sort(np.argpartition(products, -k, axis=1)[:, -k:], axis=1)
        else:
            near = np.broadcast_to(np.arange(len(part)), products.shape)
        best = np.concatenate([best, part[near].astype(np.int64)], axis=1)
        scores = np.concatenate([scores, products[each, near]], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        best, scores = best[each, order], scores[each, order]
    return best, scores


def _products(queries: np.ndarray, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors)  # slices of a mapped array are slow
    products = np.empty((len(queries), len(rows)), np.float32)
    size = len(rows) if len(queries) > 1 else max(1, _PIECE // vectors.shape[1])
    for start in range(0, len(rows), size):
        part, out = rows[start : start + size], products[:, start : start + size]
        first, last = part[0], part[-1] + 1
        if last - first == len(part):
            np.matmul(queries, vectors[first:last].T, out=out)
        elif vectors.flags.f_contiguous:  # multiplying the rows between takes less than a copy without them
            out[:] = (queries @ vectors[first:last].T)[:, part - first]
        else:
            np.matmul(queries, vectors.take(part, axis=0).T, out=out)
    return products
