"""JSON-ready sections of a retrieval report: metrics, recall curve, classes, similarities, galleries."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.errors import UsageError
from anchorage.judging.bootstrap import compare_by_classes
from anchorage.judging.gate import Comparison
from anchorage.judging.settings import QueryProtocol
from anchorage.retrieval.metrics import describe_metric, evaluate_retrieval
from anchorage.retrieval.pairs import BINS, EDGES, PairStatistics

if TYPE_CHECKING:
    from anchorage.retrieval.metrics import RetrievalResult
    from anchorage.retrieval.table import Embeddings

ALWAYS = ("map@r", "recall@1")  # needed for the per-class table and the galleries
CURVE_END = 1000
ROUND = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # values of k that are also shown as numbers
_BARS = 100  # of the similarity histogram
_RESAMPLES = 1000


def align(candidate: "Embeddings", baseline: "Embeddings") -> tuple["Embeddings", "Embeddings"]:
    """Restrict two tables to their common images, in the same order, with the labels and roles of the candidate."""
    row_of_id = {id_: row for row, id_ in enumerate(baseline.ids)}
    ours = candidate.select(np.array([row for row, id_ in enumerate(candidate.ids) if id_ in row_of_id], np.int64))
    theirs = baseline.vectors[np.array([row_of_id[id_] for id_ in ours.ids], np.int64)]
    return ours, replace(ours, vectors=theirs)


def evaluate(
    table: "Embeddings", metrics: Sequence[str], protocol: QueryProtocol, gallery: np.ndarray | None = None
) -> "RetrievalResult":
    """Compute metrics of a table; `gallery` has embeddings of the same rows by another model, to search in.

    Raises:
        UsageError: `E_COLUMN` if the table lacks a column that the protocol names.
    """
    groups, parents = (column(table, name) for name in protocol)
    result = evaluate_retrieval(
        table.vectors,
        table.labels,
        table.roles,
        metrics=metrics,
        groups=groups,
        parents=parents,
        gallery_vectors=gallery,
    )
    return result if groups is None else replace(result, protocol=result.protocol.replace("group", protocol.leave_out))


def can_compare(table: "Embeddings") -> bool:
    """Return whether a query can have a relevant item: a class has two images, one of them in the gallery."""
    counts = Counter(table.labels.tolist())
    in_gallery = {
        label for label, role in zip(table.labels.tolist(), table.roles.tolist(), strict=True) if role != "query"
    }
    return any(counts[label] > 1 for label in in_gallery)


def column(table: "Embeddings", name: str) -> np.ndarray | None:
    """Return an additional column of the table; None for an empty name."""
    if name and name not in table.columns:
        raise UsageError(
            "E_COLUMN",
            f"Expected a column {name!r} in the embedding table. Received: {sorted(table.columns) or 'none'}",
        )
    return table.columns[name] if name else None


def compare(
    candidate: "Embeddings",
    result: "RetrievalResult",
    ours: "Embeddings",
    theirs: "Embeddings",
    name: str,
    protocol: QueryProtocol = QueryProtocol(),  # noqa: B008 - a tuple
) -> tuple[Comparison, "RetrievalResult", "RetrievalResult"]:
    """Evaluate both models on their common images.

    Args:
        candidate: all embeddings of the candidate.
        result: evaluation of `candidate`, reused if all images are common.
        ours: aligned table of the candidate.
        theirs: aligned table of the baseline.
        name: name of the baseline, for the reasons.
        protocol: column of excluded gallery rows, and column of parent classes.

    Returns:
        The comparison, and the results of candidate and baseline.
    """
    metrics = tuple(result.values)
    common = result
    if len(ours.ids) < len(candidate.ids):
        common = evaluate(ours, metrics, protocol)
    before = evaluate(theirs, metrics, protocol)
    comparison = Comparison(
        metrics=result.values,
        common=common.values,
        baseline=before.values,
        baseline_name=name,
        common_queries=common.num_queries,
        per_query={metric: (common.per_query[metric], before.per_query[metric]) for metric in metrics},
        query_labels=ours.labels[common.query_rows],
        first=False,
        common_share=common.num_queries / result.num_queries,
    )
    return comparison, common, before


def metric_entries(
    result: "RetrievalResult", labels: np.ndarray, comparison: Comparison, minimum: Mapping[str, float], *, seed: int
) -> dict[str, Any]:
    """Return one entry per metric: value, interval, number of queries, convention, floor, and the baseline's value.

    Args:
        result: evaluation of the candidate.
        labels: `(Q,)` class of each query; the 95 % intervals resample classes.
        comparison: comparison with the baseline.
        minimum: floors of the gate.
        seed: seed of the resamples.
    """
    zeros = np.zeros(result.num_queries)
    columns = {name: (result.per_query[name], zeros) for name in result.values}
    masks = dict.fromkeys(columns, np.ones(result.num_queries, bool))
    differences = compare_by_classes(columns, labels, masks, resamples=_RESAMPLES, seed=seed)
    entries = {}
    for name, value in result.values.items():
        entry = {
            "value": float(value),
            "interval": list(differences.interval(differences.names.index(name), 0.95)),
            "queries": int(result.num_queries),
            "convention": f"{describe_metric(name)}; {result.protocol}",
            "minimum": minimum.get(name),
        }
        if comparison.baseline:  # empty if no query is common
            ours, theirs = float(comparison.common[name]), float(comparison.baseline[name])
            entry |= {"common": ours, "baseline": theirs, "difference": ours - theirs}
        entries[name] = entry
    return entries


def recall_curve(pairs: PairStatistics, gallery: int) -> dict[str, Any]:
    """Compute recall@k for k up to 1000 or the gallery's size: at round numbers, and 60 values of k evenly in log k."""
    end = max(1, min(CURVE_END, gallery))
    ks = np.unique([k for k in [*ROUND, *np.round(np.geomspace(1, end, 60)).astype(int).tolist()] if k <= end])
    hits = np.sort(pairs.first_hit)
    shares = np.searchsorted(hits, ks, side="right") / max(1, len(hits))
    return {"k": ks.tolist(), "candidate": shares.tolist(), "queries": len(hits)}


def growth_curve(pairs: PairStatistics, gallery: int) -> dict[str, Any]:
    """Compute the expected recall@1 in galleries with a random share of the irrelevant and all relevant items."""
    shares = np.array([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0])
    nearer = pairs.first_hit[:, None] - 1  # irrelevant items before the first hit, all of which must be removed
    expected = np.power(1.0 - shares, nearer).mean(axis=0) if len(nearer) else np.zeros(len(shares))
    return {"wrong_items_kept": shares.tolist(), "gallery": gallery, "recall@1": expected.tolist()}


def similarity_bars(pairs: PairStatistics) -> dict[str, Any]:
    """Compute histograms of same-class pairs and of each query's hardest negative, and their overlap."""
    hardest = pairs.hardest_negative[np.isfinite(pairs.hardest_negative)]
    edges = EDGES[:: BINS // _BARS]
    positive = pairs.positive.reshape(_BARS, -1).sum(axis=1)
    wrong = np.histogram(np.clip(hardest, -1, 1), edges)[0]
    shares = [counts / max(1, counts.sum()) for counts in (positive, wrong)]
    return {
        "edges": [round(float(edge), 4) for edge in edges],
        "positive": positive.tolist(),
        "negative": pairs.negative.reshape(_BARS, -1).sum(axis=1).tolist(),
        "hardest_negative": wrong.tolist(),
        "overlap": float(np.minimum(*shares).sum()),
        "queries": len(pairs.query_rows),
    }


def class_entries(table: "Embeddings", result: "RetrievalResult", comparison: Comparison) -> list[dict[str, Any]]:
    """Return one entry per class of queries, lowest MAP@R first; `baseline` is MAP@R on the common queries."""
    per_class = result.per_class
    nearest = table.labels[result.neighbor_rows[:, 0]]
    labels = table.labels[result.query_rows]
    taken = Counter(zip(labels[nearest != labels].tolist(), nearest[nearest != labels].tolist(), strict=True))
    taken_for: dict[str, list] = {}
    for (label, other), count in taken.most_common():
        taken_for.setdefault(label, []).append([other, count])
    before = _class_means(comparison)
    entries = [
        {
            "label": str(label),
            "queries": int(per_class["queries"][at]),
            "images": int(per_class["gallery"][at]),
            "map@r": float(per_class["map@r"][at]),
            "recall@1": float(per_class["recall@1"][at]),
            "baseline": before.get(label),
            "taken_for": taken_for.get(label, [])[:2],
        }
        for at, label in enumerate(per_class["label"].tolist())
    ]
    return sorted(entries, key=lambda entry: (entry["map@r"], entry["label"]))


def galleries(table: "Embeddings", result: "RetrievalResult", pairs: PairStatistics, *, each: int, seed: int) -> dict:
    """Choose random, worst (each class once) and most confidently wrong (each pair once) queries, with neighbors."""
    value = result.per_query["map@r"]
    labels, nearest = table.labels[result.query_rows], table.labels[result.neighbor_rows[:, 0]]
    confidence = np.where(nearest != labels, result.neighbor_similarities[:, 0], -np.inf)
    mistaken = [at for at in np.argsort(-confidence, kind="stable") if np.isfinite(confidence[at])]
    chosen: dict[str, Iterable[int]] = {
        "random": np.random.default_rng(seed).permutation(len(value))[:each],
        "worst": _spread(np.lexsort((-confidence, value)), lambda at: labels[at], each),
        "confident": _spread(mistaken, lambda at: frozenset((labels[at], nearest[at])), each),
    }
    first_hit = dict(zip(pairs.query_rows.tolist(), pairs.first_hit.tolist(), strict=True))
    return {
        name: [_with_neighbors(table, result, int(at), first_hit) for at in places] for name, places in chosen.items()
    }


def changed_queries(
    ours: "Embeddings", common: "RetrievalResult", before: "RetrievalResult", *, each: int
) -> dict[str, list[dict[str, Any]]]:
    """Choose the queries that gained and lost most MAP@R, each class once, with the neighbors of both models."""
    change = common.per_query["map@r"] - before.per_query["map@r"]
    labels = ours.labels[common.query_rows]
    orders = {
        "improved": [at for at in np.argsort(-change, kind="stable") if change[at] > 0],
        "worsened": [at for at in np.argsort(change, kind="stable") if change[at] < 0],
    }
    return {
        name: [
            {**_with_neighbors(ours, common, at, {}), "before": _with_neighbors(ours, before, at, {})}
            for at in _spread(order, lambda at: labels[at], each)
        ]
        for name, order in orders.items()
    }


def _class_means(comparison: Comparison) -> dict[str, float]:
    """Return the baseline's mean MAP@R of each class over the common queries."""
    if comparison.baseline is None or comparison.query_labels is None:
        return {}
    classes, codes = np.unique(comparison.query_labels, return_inverse=True)
    means = np.bincount(codes, comparison.per_query["map@r"][1]) / np.bincount(codes)
    return dict(zip(classes.tolist(), means.tolist(), strict=True))


def _spread(places: Iterable[int], kind: Callable[[int], Hashable], each: int) -> list[int]:
    """Return the first `each` places, at most one of each kind."""
    seen: dict[Hashable, int] = {}
    for at in places:
        if len(seen) < each:
            seen.setdefault(kind(at), int(at))
    return list(seen.values())


def _with_neighbors(table: "Embeddings", result: "RetrievalResult", at: int, first_hit: Mapping[int, int]) -> dict:
    query = int(result.query_rows[at])
    return {
        "id": str(table.ids[query]),
        "label": str(table.labels[query]),
        "map@r": float(result.per_query["map@r"][at]),
        "first_hit": first_hit.get(query),
        "neighbors": [
            {
                "id": str(table.ids[row]),
                "label": str(table.labels[row]),
                "similarity": float(similarity),
                "correct": bool(table.labels[row] == table.labels[query]),
            }
            for row, similarity in zip(result.neighbor_rows[at], result.neighbor_similarities[at], strict=True)
        ],
    }
