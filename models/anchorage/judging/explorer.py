"""Data of the interactive page of the report: the neighbors of many queries."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from anchorage.retrieval.metrics import RetrievalResult
    from anchorage.retrieval.table import Embeddings


def list_neighbors(
    table: "Embeddings", result: "RetrievalResult", *, first: Sequence[str], most: int = 3000, each: int = 10
) -> dict[str, Any]:
    """List the nearest gallery images of many queries; images are indices into one list.

    Args:
        table: the evaluated embeddings.
        result: their evaluation.
        first: ids of the queries to list first, such as those on the map.
        most: largest number of queries; others than `first` follow in the order of the table.
        each: neighbors per query, nearest first.

    Returns:
        `ids`, `labels` and, by name, `columns` of all images; `queries`, `neighbors` and `similarities`: for each query
        its index, the indices of its neighbors, and the cosines.
    """
    in_first = np.isin(table.ids[result.query_rows], np.array(list(first), object))
    order = np.concatenate([np.flatnonzero(in_first), np.flatnonzero(~in_first)])[:most]
    queries, neighbors = result.query_rows[order], result.neighbor_rows[order, :each]
    rows = np.unique(np.concatenate([queries, neighbors.ravel()]))
    return {
        "ids": table.ids[rows].tolist(),
        "labels": table.labels[rows].tolist(),
        "columns": {name: values[rows].tolist() for name, values in table.columns.items()},
        "queries": np.searchsorted(rows, queries).tolist(),
        "neighbors": np.searchsorted(rows, neighbors).tolist(),
        "similarities": np.round(result.neighbor_similarities[order, :each].astype(float), 3).tolist(),
    }
