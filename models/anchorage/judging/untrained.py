"""Evaluation of the baselines without training, which a candidate must beat."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from anchorage.errors import DataError
from anchorage.judging.gate import UntrainedBaseline
from anchorage.judging.numbers import align, evaluate
from anchorage.judging.settings import QueryProtocol

if TYPE_CHECKING:
    from anchorage.retrieval.metrics import RetrievalResult
    from anchorage.retrieval.table import Embeddings


def compare_untrained(
    candidate: "Embeddings", result: "RetrievalResult", tables: Mapping[str, "Embeddings"], protocol: QueryProtocol
) -> list[UntrainedBaseline]:
    """Evaluate each baseline on the candidate's queries and gallery.

    Args:
        candidate: embeddings of the candidate.
        result: evaluation of the candidate.
        tables: name of a baseline, such as "raw pixels" -> its embeddings of the same images, in any order.
        protocol: column of excluded gallery rows, and column of parent classes.

    Raises:
        DataError: `E_BASELINE_MISSING` if a baseline lacks an image of the candidate.
    """
    return [_compare(candidate, result, name, table, protocol) for name, table in tables.items()]


def _compare(
    candidate: "Embeddings", result: "RetrievalResult", name: str, table: "Embeddings", protocol: QueryProtocol
) -> UntrainedBaseline:
    ours, theirs = align(candidate, table)
    if missing := len(candidate) - len(ours):  # fewer queries would make the results incomparable
        raise DataError(
            "E_BASELINE_MISSING",
            f"Expected an embedding by the {name} for all {len(candidate):,} images. Received: none for {missing:,}",
        )
    before = evaluate(replace(candidate, vectors=theirs.vectors), tuple(result.values), protocol)
    per_query = {metric: (result.per_query[metric], before.per_query[metric]) for metric in result.values}
    return UntrainedBaseline(name, per_query, candidate.labels[result.query_rows])
