"""Exact retrieval metrics over queries and a gallery: recall@k, MAP@R, nDCG and others.

Conventions of all metrics: the similarity is the inner product (the cosine, for unit vectors). A gallery item is
relevant if it has the query's label (`anchorage.retrieval.relevance` also supports two levels of labels and several
labels per image). A query is excluded from its own results (by row, not by distance 0), and, on request, its whole
group. Queries without a relevant item are skipped and counted. Ties get the expected value over all orders of the tied
items (`anchorage.retrieval.ties`), so values do not depend on the order of rows or on the number of retrieved
neighbors. All values lie in [0, 1].

MAP@R and R-precision: Musgrave, Belongie & Lim, "A Metric Learning Reality Check", ECCV 2020, section 3.2. nDCG@K:
Saeki, Kawahara & Aman, arXiv 2110.03997, with binary relevance; `linear_graded_ndcg` uses the grade itself as gain, as
in trec_eval.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from anchorage.errors import DataError, UsageError
from anchorage.retrieval.neighbors import Exclusions, Space, rank_block
from anchorage.retrieval.relevance import (
    ClassRelevance,
    Relevance,
    SharedRelevance,
    encode_groups,
    encode_labels,
    parents_of,
)
from anchorage.retrieval.ties import HitGroups, RankedHits, average_precision, find_groups, rank_hits, reciprocal_rank

DEFAULT_METRICS = ("recall@1", "recall@2", "recall@4", "recall@8", "map@r", "r_precision", "ndcg@10")
ROLES = ("query", "gallery", "both")


@dataclass(frozen=True)
class RetrievalResult:
    """Metrics of one evaluation, with values per query and per class and the nearest neighbors.

    Args:
        values: metric name -> mean over the queries, in [0, 1].
        per_query: metric name -> `(Q,)` float64, one value per query, in the order of `query_rows`.
        query_rows: `(Q,)` int64 rows of `vectors` that were evaluated as queries.
        skipped_rows: rows of queries without a relevant item in the gallery.
        neighbor_rows: `(Q, P)` int64 rows of the neighbors, nearest first.
        neighbor_similarities: `(Q, P)` float32.
        num_gallery: size of the gallery.
        protocol: description of what is excluded from the results of a query.
        per_class: columns of equal length, one row per class of the queries: `label`, `queries`, `gallery`, and the
            mean of each metric over the queries of the class; no rows if images have several labels.
    """

    values: dict[str, float]
    per_query: dict[str, np.ndarray]
    query_rows: np.ndarray
    skipped_rows: np.ndarray
    neighbor_rows: np.ndarray
    neighbor_similarities: np.ndarray
    num_gallery: int
    protocol: str
    per_class: dict[str, np.ndarray]

    @property
    def num_queries(self) -> int:
        return len(self.query_rows)

    @property
    def num_skipped(self) -> int:
        return len(self.skipped_rows)


class Metric(NamedTuple):
    """An entry of `METRICS`: the function, and the definition as a text."""

    compute: Callable[[RankedHits, int], np.ndarray]
    meaning: str
    whole: bool = False  # needs the ranks of all relevant items in the whole gallery


def _recall(ranked: RankedHits, k: int) -> np.ndarray:
    return 1.0 - ranked.missed[:, k - 1]


def _precision(ranked: RankedHits, k: int) -> np.ndarray:
    return ranked.hits[:, :k].mean(axis=1)


def _ndcg(ranked: RankedHits, k: int) -> np.ndarray:
    gains = 1.0 / np.log2(np.arange(k) + 2.0)
    return ranked.hits[:, :k] @ gains / np.cumsum(gains)[np.minimum(ranked.relevant, k) - 1]


def _map_at_r(ranked: RankedHits, k: int) -> np.ndarray:
    return (ranked.precisions * _up_to_r(ranked)).sum(axis=1) / ranked.relevant


def _r_precision(ranked: RankedHits, k: int) -> np.ndarray:
    return (ranked.hits * _up_to_r(ranked)).sum(axis=1) / ranked.relevant


def _graded_ndcg(ranked: RankedHits, k: int) -> np.ndarray:
    # Each grade adds twice as much to the gain as the grade below it: 2^g - 1 = 1 + 2 + 4 + ...
    return _share_of_best(ranked, ranked.gains, 2.0 ** np.arange(ranked.counts.shape[1]), k)


def _linear_graded_ndcg(ranked: RankedHits, k: int) -> np.ndarray:
    return _share_of_best(ranked, ranked.grades, np.ones(ranked.counts.shape[1]), k)


def _share_of_best(ranked: RankedHits, gains: np.ndarray, rises: np.ndarray, k: int) -> np.ndarray:
    """Divide the DCG of the k nearest by the ideal DCG; `rises` is what each grade adds to the gain."""
    discounts = 1.0 / np.log2(np.arange(k) + 2.0)
    # In the ideal order the items of a grade or higher occupy the first ranks.
    filled = np.append(0.0, np.cumsum(discounts))[np.minimum(np.cumsum(ranked.counts[:, ::-1], axis=1), k)]
    return gains[:, :k] @ discounts / (filled @ rises[::-1])


def _average_precision(ranked: RankedHits, k: int) -> np.ndarray:
    return average_precision(_whole(ranked), ranked.relevant)


def _reciprocal_rank(ranked: RankedHits, k: int) -> np.ndarray:
    return reciprocal_rank(_whole(ranked), len(ranked.relevant))


def _up_to_r(ranked: RankedHits) -> np.ndarray:
    """Return the `(B, K)` mask of the ranks 1 to R."""
    return np.arange(ranked.hits.shape[1]) < ranked.relevant[:, None]


def _whole(ranked: RankedHits) -> HitGroups:
    if ranked.groups is None:
        raise ValueError("Expected the ranks of all relevant items. Received: a ranking that ends at its depth")
    return ranked.groups


# "@k" in a name stands for "@" and a whole number.
METRICS = {
    "recall@k": Metric(_recall, "share of queries with at least one relevant item among the k nearest"),
    "precision@k": Metric(_precision, "share of relevant items among the k nearest"),
    "ndcg@k": Metric(_ndcg, "gain of the k nearest, 1/log2(rank + 1) per relevant item, over the best possible gain"),
    "graded_ndcg@k": Metric(
        _graded_ndcg, "gain of the k nearest, (2^grade - 1)/log2(rank + 1), over the best possible gain"
    ),
    "map@r": Metric(_map_at_r, "mean over ranks 1..R of (precision up to the rank if it is relevant, else 0); R = "),
    "r_precision": Metric(_r_precision, "share of relevant items among the R nearest; R = "),
    "map": Metric(
        _average_precision,
        "mean over all relevant items of the precision at their ranks in the whole gallery, the area under the query's "
        "precision-recall curve; averaged over R = ",
        whole=True,
    ),
    "mrr": Metric(_reciprocal_rank, "1 / rank of the first in the whole gallery of R = ", whole=True),
    "linear_graded_ndcg@k": Metric(
        _linear_graded_ndcg, "gain of the k nearest, grade/log2(rank + 1), over the best possible gain"
    ),
}
_R = "relevant items of the query in the gallery"


def parse_metric(name: str) -> tuple[Metric, int]:
    """Return the metric of a name such as `"recall@4"`, and its k (0 for metrics without k).

    Raises:
        UsageError: if there is no such metric; the message lists all metrics.
    """
    match = re.fullmatch(r"([a-z_]+@)([1-9][0-9]{0,3})", name)
    key = f"{match[1]}k" if match else name
    if key not in METRICS or (not match and key.endswith("@k")):
        raise UsageError(
            "E_METRIC_UNKNOWN",
            f"Expected metrics among {', '.join(METRICS)} (k a whole number below 10,000). Received: {name!r:.60}",
        )
    return METRICS[key], int(match[2]) if match else 0


def describe_metric(name: str) -> str:
    """Return the definition of a metric as a text for reports.

    Example:
        >>> describe_metric("recall@4")
        'share of queries with at least one relevant item among the 4 nearest'
    """
    metric, k = parse_metric(name)
    return metric.meaning.replace("the k nearest", f"the {k} nearest") if k else metric.meaning + _R


def evaluate_retrieval(
    vectors: np.ndarray,
    labels: Any,
    roles: Sequence[str] | np.ndarray | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    keep_neighbors: int = 10,
    block_rows: int | None = None,
    *,
    groups: Sequence[str] | np.ndarray | None = None,
    parents: Sequence | np.ndarray | None = None,
    gallery_vectors: np.ndarray | None = None,
) -> RetrievalResult:
    """Search the gallery with every query and compute retrieval metrics: exact, in bounded memory.

    Args:
        vectors: `(M, D)` embeddings of unit length, queries and gallery together.
        labels: `(M,)` class of each row, numbers or names; or several labels per row, see `encode_labels`.
        roles: `(M,)` of `"query"`, `"gallery"` or `"both"` (a query, and in the gallery of all others); None for
            `"both"` throughout.
        metrics: names such as `"recall@1"`, `"precision@5"`, `"ndcg@10"`, `"map@r"`, `"r_precision"`, `"map"`.
        keep_neighbors: neighbors per query in the result, limited by the size of the gallery.
        block_rows: queries per matrix product; None for as many as fit into 256 MiB of similarities.
        groups: `(M,)` names or numbers, such as the camera or the family of drawings; items of the query's group are
            excluded from its results. "" is no group.
        parents: `(M,)` superclass of each row, for graded metrics: same class is grade 2, same superclass grade 1.
        gallery_vectors: `(M, D)` embeddings of the same rows by another model, to use for the gallery.

    Raises:
        UsageError: for an unknown metric, or one that needs more neighbors than the gallery has.
        DataError: for vectors that are not finite, an unknown role, or if no query has a relevant item.

    Example:
        >>> space = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> evaluate_retrieval(space, [0, 1, 0, 1], metrics=["recall@1", "recall@2"]).values
        {'recall@1': 0.0, 'recall@2': 0.5}
    """
    parsed = {name: parse_metric(name) for name in metrics}
    task = build_task(vectors, labels, roles, groups, parents, gallery_vectors)
    space, query_rows, relevance = task.space, task.query_rows, task.relevance
    relevant = task.counts[:, relevance.least - 1 :].sum(axis=1)
    available = int(space.available.min())
    _check_depths(parsed, available)
    keep = min(keep_neighbors, available)
    to_r = relevant if any(name in {"map@r", "r_precision"} for name in metrics) else np.zeros_like(relevant)
    depths = np.maximum(to_r, max([1, keep, *(k for _, k in parsed.values())]))
    whole = any(metric.whole for metric, _ in parsed.values())

    per_query = {name: np.empty(len(query_rows)) for name in metrics}
    kept_rows = np.empty((len(query_rows), keep), np.int64)
    kept_similarities = np.empty((len(query_rows), keep), np.float32)
    for block in space.blocks(depths, block_rows):
        done = 0
        for ranking in rank_block(space, block):
            part = ranking.queries
            grade = relevance.grades(part[ranking.places], ranking.rows)
            ranked = rank_hits(ranking, grade, relevance.least, task.counts[part])
            if whole:
                products = block.similarities[done : done + len(part)]
                groups_of_hits = find_groups(ranking, grade >= relevance.least, relevance, space, products)
                ranked = ranked._replace(groups=groups_of_hits)
            for name, (metric, k) in parsed.items():
                per_query[name][part] = metric.compute(ranked, k)
            places, kept_similarities[part] = ranking.first(keep)
            kept_rows[part] = task.gallery_rows[places]
            done += len(part)
    return RetrievalResult(
        values={name: float(values.mean()) for name, values in per_query.items()},
        per_query=per_query,
        query_rows=query_rows,
        skipped_rows=task.skipped_rows,
        neighbor_rows=kept_rows,
        neighbor_similarities=kept_similarities,
        num_gallery=len(task.gallery_rows),
        protocol="a query never meets itself" + ("" if groups is None else ", nor anything of its own group"),
        per_class=_per_class(task, per_query),
    )


class RetrievalTask(NamedTuple):
    """Queries and gallery of an evaluation, and which items are relevant to which query.

    Args:
        space: the evaluated queries and the gallery.
        relevance: relevance of gallery rows to queries.
        counts: `(Q, top)` number of gallery items of each grade.
        query_rows: `(Q,)` table rows of the queries with a relevant item.
        skipped_rows: table rows of the queries without one.
        gallery_rows: `(M,)` table rows of the gallery.
        labels: `(rows,)` labels as given, or None if a row has several.
    """

    space: Space
    relevance: Relevance
    counts: np.ndarray
    query_rows: np.ndarray
    skipped_rows: np.ndarray
    gallery_rows: np.ndarray
    labels: np.ndarray | None


def build_task(
    vectors: np.ndarray,
    labels: Any,
    roles: Sequence[str] | np.ndarray | None = None,
    groups: Sequence[str] | np.ndarray | None = None,
    parents: Sequence | np.ndarray | None = None,
    gallery_vectors: np.ndarray | None = None,
) -> RetrievalTask:
    """Split a table into queries and gallery; arguments as for `evaluate_retrieval`.

    Raises:
        DataError: `E_VECTOR_SHAPE`, `E_ROLE`, `E_LABELS`, or `E_NO_RELEVANT` if no query has a relevant item.
    """
    vectors = np.asarray(vectors)
    codes, matrix = encode_labels(labels)
    _check_lengths(vectors, len(labels), roles, groups)
    is_query, in_gallery = _roles(roles, len(vectors))
    gallery_rows = np.flatnonzero(in_gallery)
    gallery_index = np.where(in_gallery, np.cumsum(in_gallery) - 1, -1)
    group_codes = None if groups is None else encode_groups(groups)
    parent_codes = None if parents is None or codes is None else parents_of(codes, parents)

    def relevance_of(rows: np.ndarray) -> tuple[Exclusions, Relevance]:
        exclusions = Exclusions(gallery_index[rows])
        if group_codes is not None:
            exclusions = Exclusions(gallery_index[rows], group_codes[rows], group_codes[gallery_rows])
        if codes is None:
            return exclusions, SharedRelevance(matrix[rows], matrix[gallery_rows], exclusions)
        return exclusions, ClassRelevance(codes[rows], codes[gallery_rows], exclusions, parent_codes)

    all_query_rows = np.flatnonzero(is_query)
    relevance = relevance_of(all_query_rows)[1]
    counts = relevance.counts()
    has_relevant = counts[:, relevance.least - 1 :].sum(axis=1) > 0
    if not has_relevant.any():
        raise DataError(
            "E_NO_RELEVANT",
            "Expected at least one query with another item of its class in the gallery. Received: "
            f"{len(all_query_rows)} queries, {len(gallery_rows)} gallery items, none relevant. Check labels and roles",
        )
    query_rows = all_query_rows[has_relevant]
    exclusions, relevance = relevance_of(query_rows)
    searched = vectors if gallery_vectors is None else np.asarray(gallery_vectors)
    gallery = searched if in_gallery.all() else searched[gallery_rows]
    queries = vectors if len(query_rows) == len(vectors) else vectors[query_rows]
    return RetrievalTask(
        space=Space(queries, gallery, exclusions),
        relevance=relevance,
        counts=counts[has_relevant],
        query_rows=query_rows,
        skipped_rows=all_query_rows[~has_relevant],
        gallery_rows=gallery_rows,
        labels=None if codes is None else np.asarray(labels),
    )


def _check_lengths(vectors: np.ndarray, labels: int, roles: Sequence | np.ndarray | None, groups: Any) -> None:
    lengths = {"vectors": len(vectors), "labels": labels}
    lengths |= {name: len(values) for name, values in (("roles", roles), ("groups", groups)) if values is not None}
    if vectors.ndim != 2 or len(set(lengths.values())) > 1:
        raise DataError(
            "E_VECTOR_SHAPE",
            f"Expected `(M, D)` vectors with one label and one role each. Received: vectors {vectors.shape}, {lengths}",
        )


def _roles(roles: Sequence[str] | np.ndarray | None, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the masks of the queries and of the gallery rows."""
    if roles is None:
        return np.ones(rows, bool), np.ones(rows, bool)
    roles = np.asarray(roles, dtype=str)
    unknown = sorted(set(np.unique(roles).tolist()) - set(ROLES))
    if unknown:
        raise DataError("E_ROLE", f"Expected roles among {', '.join(ROLES)}. Received: {', '.join(map(repr, unknown))}")
    return roles != "gallery", roles != "query"


def _check_depths(parsed: dict[str, tuple[Metric, int]], available: int) -> None:
    for name, (_, k) in parsed.items():
        if k > available:
            raise UsageError(
                "E_TOO_FEW_NEIGHBORS",
                f"Expected at least {k} gallery items to compare a query with, for {name}. Received: {available}. "
                "Leave this metric out or enlarge the gallery",
            )


def _per_class(task: RetrievalTask, per_query: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if task.labels is None:
        return {"label": np.empty(0, object), "queries": np.empty(0, np.int64), "gallery": np.empty(0, np.int64)}
    classes, codes = np.unique(task.labels, return_inverse=True)
    sizes = np.bincount(codes[task.gallery_rows], minlength=len(classes))
    codes = codes[task.query_rows]
    counts = np.bincount(codes, minlength=len(classes))
    present = np.flatnonzero(counts)
    table = {"label": classes[present], "queries": counts[present], "gallery": sizes[present]}
    for name, values in per_query.items():
        table[name] = np.bincount(codes, values, minlength=len(classes))[present] / counts[present]
    return table
