"""Confused classes: the most frequent pairs, and a confusion matrix of the hardest classes."""

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from anchorage.retrieval.metrics import RetrievalResult
    from anchorage.retrieval.table import Embeddings

_PAIRS, _EXAMPLES = 20, 3
_HARDEST = 30  # classes of the matrix


def confused_pairs(table: "Embeddings", result: "RetrievalResult") -> list[dict[str, Any]]:
    """List the 20 most confused pairs of classes: the nearest neighbor of a query of one is of the other.

    Returns:
        Dicts with `label`, `taken_for`, `queries` (number of confused queries), `of` (all queries of the class) and
        `examples`: up to three, most confident first, with the ids of `query` and `neighbor`, and their `similarity`.
    """
    labels, nearest = _query_and_nearest_labels(table, result)
    totals = Counter(labels.tolist())
    confused: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for at in np.flatnonzero(labels != nearest).tolist():
        confused[labels[at], nearest[at]].append(at)
    most = sorted(confused.items(), key=lambda item: (-len(item[1]), *map(str, item[0])))[:_PAIRS]
    similarity = result.neighbor_similarities[:, 0]
    return [
        {
            "label": str(label),
            "taken_for": str(other),
            "queries": len(queries),
            "of": totals[label],
            "examples": [
                {
                    "query": str(table.ids[result.query_rows[at]]),
                    "neighbor": str(table.ids[result.neighbor_rows[at, 0]]),
                    "similarity": float(similarity[at]),
                }
                for at in sorted(queries, key=lambda at: (-similarity[at], at))[:_EXAMPLES]
            ],
        }
        for (label, other), queries in most
    ]


def confusion_matrix(table: "Embeddings", result: "RetrievalResult") -> dict[str, Any] | None:
    """Compute the confusion matrix of up to 30 classes with the highest error rates, similar classes side by side.

    Returns:
        `labels`, and `shares`: one row per class, the share of its queries whose nearest image is of each class. The
        sum of a row is less than 1 if some nearest images are of other classes. None if fewer than two classes have
        errors.
    """
    labels, nearest = _query_and_nearest_labels(table, result)
    totals, wrong = Counter(labels.tolist()), Counter(labels[labels != nearest].tolist())
    hardest = sorted(wrong, key=lambda label: (-wrong[label] / totals[label], str(label)))[:_HARDEST]
    if len(hardest) < 2:
        return None
    index = {label: at for at, label in enumerate(hardest)}
    shares = np.zeros((len(hardest), len(hardest)))
    for label, other in zip(labels.tolist(), nearest.tolist(), strict=True):
        if label in index and other in index:
            shares[index[label], index[other]] += 1 / totals[label]
    order = _cluster_order(shares)
    return {"labels": [str(hardest[at]) for at in order], "shares": shares[np.ix_(order, order)].tolist()}


def _query_and_nearest_labels(table: "Embeddings", result: "RetrievalResult") -> tuple[np.ndarray, np.ndarray]:
    return table.labels[result.query_rows], table.labels[result.neighbor_rows[:, 0]]


def _cluster_order(shares: np.ndarray) -> list[int]:
    """Return the leaf order of an average-linkage clustering by mutual confusion."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    mutual = np.minimum(shares + shares.T, 1.0)
    distances = 1.0 - mutual[np.triu_indices(len(shares), 1)]
    return leaves_list(linkage(distances, "average")).tolist()
