"""The recall of a live index as it is served, measured against a full comparison of its current items."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from anchorage.errors import DataError
from anchorage.items import Item
from anchorage.retrieval.live import Hits, LiveIndex

_NEAR = 1e-5  # a result within this distance of the last true neighbor counts as a true neighbor
_BLOCK = 256  # queries at once
_Z = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class Audit:
    """Result of an audit.

    Args:
        recall: mean share of the true `k` nearest items that a search finds, in [0, 1].
        low, high: 95 % interval of the recall. It is Wilson's, with one trial per query: wider than needed, as shares
            of several neighbors vary less than single trials do.
        queries: number of queries, which are items drawn at random, each left out of its own results.
        neighbors: `k`.
        rows: number of searchable items.
        mismatches: for each query that misses something, its `id`, the ids `missed` and the ids `served` instead.
    """

    recall: float
    low: float
    high: float
    queries: int
    neighbors: int
    rows: int
    mismatches: list[dict[str, Any]]


def audit(live: LiveIndex, *, queries: int = 500, neighbors: int = 10, seed: int = 0) -> Audit:
    """Search items of a live index, and compare the results with those of an exact search.

    Args:
        live: the index; changes applied during the audit may show as mismatches.
        queries: number of items to search for.
        neighbors: number of results of each.
        seed: draws the items.

    Raises:
        DataError: `E_INDEX_EMPTY` for fewer than two items.
    """
    items = live.sample(queries, seed)
    if len(items) < 2:
        raise DataError("E_INDEX_EMPTY", f"Expected at least two items to search among. Received: {len(items)}")
    shares, mismatches = [], []
    for start in range(0, len(items), _BLOCK):
        block = items[start : start + _BLOCK]
        vectors, own = np.stack([np.asarray(item.vector) for item in block]), [[item.id] for item in block]
        served, exact = live.search(vectors, neighbors, leave_out=own), live.exact(vectors, neighbors, leave_out=own)
        for item, found, true in zip(block, served, exact, strict=True):
            shares.append(_share(live, item, found, true))
            if shares[-1] < 1:
                true_ids, found_ids = true.ids.tolist(), found.ids.tolist()
                missed = [id_ for id_ in true_ids if id_ not in found_ids]
                instead = [id_ for id_ in found_ids if id_ not in true_ids]
                mismatches.append({"id": item.id, "missed": missed, "served": instead})
    recall = float(np.mean(shares))
    low, high = wilson_interval(recall, len(items))
    return Audit(recall, low, high, len(items), min(neighbors, live.rows - 1), live.rows, mismatches)


def wilson_interval(share: float, trials: int) -> tuple[float, float]:
    """Compute the 95 % interval of a share: Wilson, JASA 1927.

    Example:
        >>> low, high = wilson_interval(1.0, 100)
        >>> round(low, 3), round(high, 3)
        (0.963, 1.0)
    """
    center = (share + _Z**2 / (2 * trials)) / (1 + _Z**2 / trials)
    half = _Z * math.sqrt(share * (1 - share) / trials + _Z**2 / (4 * trials**2)) / (1 + _Z**2 / trials)
    return max(0.0, center - half), min(1.0, center + half)


def _share(live: LiveIndex, query: Item, found: Hits, true: Hits) -> float:
    """Share of the true neighbors among the results, by the vectors of the results and not by their scores."""
    if not len(true.scores):
        return 1.0
    last = float(true.scores[-1])
    vectors = [vector for id_ in found.ids if (vector := live.vector(id_)) is not None]
    products = np.array([np.dot(vector, np.asarray(query.vector)) for vector in vectors])
    hits = np.count_nonzero(products >= last - _NEAR * max(1.0, abs(last)))
    return min(int(hits), len(true.scores)) / len(true.scores)
