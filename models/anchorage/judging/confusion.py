"""Which classes are taken for which: pairs to look at, and the hardest classes against each other."""

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from anchorage.retrieval.metrics import RetrievalResult
    from anchorage.retrieval.table import Embeddings

_PAIRS, _EXAMPLES = 20, 3
_HARDEST = 30  # classes of the matrix


def confused_pairs(table: "Embeddings", result: "RetrievalResult") -> list[dict[str, Any]]:
    """The 20 pairs of classes that most queries of the first have one of the second nearest.

    Returns:
        Each with `label`, `taken_for`, `queries` (how many), `of` (queries of the class) and `examples`: up to three,
        the most confident first, each the ids of the `query` and the `neighbor`, and their `similarity`.
    """
    labels, nearest = _asked_and_nearest(table, result)
    asked = Counter(labels.tolist())
    places: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for at in np.flatnonzero(labels != nearest).tolist():
        places[labels[at], nearest[at]].append(at)
    most = sorted(places.items(), key=lambda item: (-len(item[1]), *map(str, item[0])))[:_PAIRS]
    similarity = result.neighbor_similarities[:, 0]
    return [
        {
            "label": str(label),
            "taken_for": str(other),
            "queries": len(found),
            "of": asked[label],
            "examples": [
                {
                    "query": str(table.ids[result.query_rows[at]]),
                    "neighbor": str(table.ids[result.neighbor_rows[at, 0]]),
                    "similarity": float(similarity[at]),
                }
                for at in sorted(found, key=lambda at: (-similarity[at], at))[:_EXAMPLES]
            ],
        }
        for (label, other), found in most
    ]


def confusion_matrix(table: "Embeddings", result: "RetrievalResult") -> dict[str, Any] | None:
    """The classes with most wrong nearest neighbours, at most 30, against each other; like ones stand together.

    Returns:
        `labels`, and `shares`: one row per class of queries, the share of them whose nearest image is of each of the
        classes. A row falls short of 1 where the nearest images are of classes that are not shown. None for fewer
        than two classes in error.
    """
    labels, nearest = _asked_and_nearest(table, result)
    asked, wrong = Counter(labels.tolist()), Counter(labels[labels != nearest].tolist())
    hardest = sorted(wrong, key=lambda label: (-wrong[label] / asked[label], str(label)))[:_HARDEST]
    if len(hardest) < 2:
        return None
    place = {label: at for at, label in enumerate(hardest)}
    shares = np.zeros((len(hardest), len(hardest)))
    for label, other in zip(labels.tolist(), nearest.tolist(), strict=True):
        if label in place and other in place:
            shares[place[label], place[other]] += 1 / asked[label]
    order = _like_together(shares)
    return {"labels": [str(hardest[at]) for at in order], "shares": shares[np.ix_(order, order)].tolist()}


def _asked_and_nearest(table: "Embeddings", result: "RetrievalResult") -> tuple[np.ndarray, np.ndarray]:
    return table.labels[result.query_rows], table.labels[result.neighbor_rows[:, 0]]


def _like_together(shares: np.ndarray) -> list[int]:
    """Order of the leaves of an average-linkage tree over how much two classes are taken for each other."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    mutual = np.minimum(shares + shares.T, 1.0)
    distances = 1.0 - mutual[np.triu_indices(len(shares), 1)]
    return leaves_list(linkage(distances, "average")).tolist()
