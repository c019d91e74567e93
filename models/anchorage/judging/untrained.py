"""Baselines without training: what a candidate must beat before a training was worth it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from anchorage.errors import DataError
from anchorage.judging.gate import Untrained
from anchorage.judging.numbers import align, evaluate
from anchorage.judging.settings import QueryProtocol

if TYPE_CHECKING:
    from anchorage.retrieval.metrics import RetrievalResult
    from anchorage.retrieval.table import Embeddings


def compare_untrained(
    candidate: "Embeddings", result: "RetrievalResult", tables: Mapping[str, "Embeddings"], protocol: QueryProtocol
) -> list[Untrained]:
    """Measure each baseline on the candidate's queries and gallery.

    Args:
        candidate: the candidate's embeddings.
        result: their evaluation.
        tables: name of a baseline, such as "raw pixels" -> its embeddings of the same images, in any order.
        protocol: which gallery rows a query leaves out, and its parent classes.

    Raises:
        DataError: `E_BASELINE_MISSING` if a baseline lacks an image of the candidate.
    """
    return [_compare(candidate, result, name, table, protocol) for name, table in tables.items()]


def _compare(
    candidate: "Embeddings", result: "RetrievalResult", name: str, table: "Embeddings", protocol: QueryProtocol
) -> Untrained:
    ours, theirs = align(candidate, table)
    if missing := len(candidate) - len(ours):  # other queries would make it another comparison
        raise DataError(
            "E_BASELINE_MISSING",
            f"Expected an embedding by the {name} for all {len(candidate):,} images. Received: none for {missing:,}",
        )
    before = evaluate(replace(candidate, vectors=theirs.vectors), tuple(result.values), protocol)
    per_query = {metric: (result.per_query[metric], before.per_query[metric]) for metric in result.values}
    return Untrained(name, per_query, candidate.labels[result.query_rows])
