"""Model and index judged together: what a user gets, who only ever sees answers through the index."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anchorage.errors import DataError
from anchorage.judging.gate import metric_name
from anchorage.judging.settings import JudgeSettings
from anchorage.retrieval.index import Index, load_index, search
from anchorage.retrieval.neighbors import nearest_neighbors

if TYPE_CHECKING:
    from anchorage.retrieval.table import Embeddings

_QUERIES = 2000  # whose answers are compared
_TIMED = 500  # asked one at a time
_MIB = 1 << 20


def judge_index(
    folder: str | Path,
    gallery: "Embeddings",
    queries: "Embeddings",
    *,
    neighbors: int,
    settings: JudgeSettings,
) -> dict[str, Any]:
    """Search an index as a user would, and hold label metric, latency and memory against their limits.

    Args:
        folder: of the saved index.
        gallery: embeddings of its rows, in its order.
        queries: embeddings that ask; one that is in the gallery is left out of its own answer.
        neighbors: answers a query gets.
        settings: the limits, `index_loss`, `index_p99_ms` and `index_memory_mib`; the seed draws the queries, where
            there are more than 2,000.

    Returns:
        JSON-ready: `metrics` (`recall@1` and `recall@k`, each with `exact` and `through_index`), `neighbor_recall`
        (share of the true neighbours found), `latency_ms` (`p50`, `p95`, `p99` of `queries` asked one at a time),
        `memory_mib` (`files`, `resident`: what the process grew by), `limits`, `queries`, `kind`, `faults`: sentences,
        one a limit that is broken; and for an index of leaves `trade`: for several numbers of leaves to search, fewest
        first, the `neighbor_recall`, the `p50` in ms, and which is `chosen`.

    Raises:
        DataError: `E_RELEASE_MIXED` if index and gallery differ in rows, `E_NO_RELEVANT` if no query has an answer.
    """
    limits = {
        "max_loss": settings.index_loss,
        "max_p99_ms": settings.index_p99_ms,
        "max_memory_mib": settings.index_memory_mib,
    }
    before = _resident()
    index = load_index(folder, dimension=gallery.dimension)
    grown = max(0.0, (_resident() - before) / _MIB)
    if index.rows != len(gallery):
        raise DataError(
            "E_RELEASE_MIXED",
            f"Expected an embedding for each of the {index.rows} rows of the index. Received: {len(gallery)}",
        )
    place = {id_: row for row, id_ in enumerate(gallery.ids.tolist())}
    own = np.array([place.get(id_, -1) for id_ in queries.ids.tolist()], np.int64)
    chosen = _choose(gallery.labels, queries.labels, own, settings.seed)
    asked, own = queries.select(chosen), own[chosen]
    k = min(neighbors, len(gallery) - int((own >= 0).any()))
    exact, similarities = nearest_neighbors(asked.vectors, gallery.vectors, k, own)
    found = _search_others(index, asked.vectors, own, k)

    def recall(rows: np.ndarray) -> float:
        scores = np.einsum("nkd,nd->nk", gallery.vectors[rows], asked.vectors)
        near = 1e-5 * np.maximum(1, np.abs(similarities[:, -1:]))  # as good as the last true neighbour
        return float(np.minimum((scores >= similarities[:, -1:] - near).sum(axis=1), k).mean() / k)

    report: dict[str, Any] = {
        "kind": index.facts["kind"],
        "queries": len(asked),
        "neighbors": k,
        "neighbor_recall": recall(found),
        "metrics": {
            f"recall@{depth}": {
                "exact": _hit_share(gallery.labels, asked.labels, exact[:, :depth]),
                "through_index": _hit_share(gallery.labels, asked.labels, found[:, :depth]),
            }
            for depth in sorted({1, k})
        },
        "latency_ms": _time(index, asked.vectors[:_TIMED], k),
        "memory_mib": {
            "files": sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / _MIB,
            "resident": grown,
        },
        "limits": limits,
    }
    if index.facts["leaves"] > 1:
        report["trade"] = [
            {
                "leaves": leaves,
                "neighbor_recall": recall(_search_others(other, asked.vectors, own, k)),
                "p50": _time(other, asked.vectors[:_TIMED], k)["p50"],
                "chosen": leaves == index.facts["leaves_to_search"],
            }
            for leaves, other in _with_other_leaves(index)
        ]
    return {**report, "faults": _faults(report)}


def _with_other_leaves(index: Index) -> list[tuple[int, Index]]:
    """The index as it is, and with fewer and more leaves to search, by halves of all of them."""
    leaves, chosen = index.facts["leaves"], index.facts["leaves_to_search"]
    tried = sorted({chosen, *(-(-leaves // 2**halvings) for halvings in range(8))})
    return [(count, replace(index, facts={**index.facts, "leaves_to_search": count})) for count in tried]


def _choose(gallery: np.ndarray, labels: np.ndarray, own: np.ndarray, seed: int) -> np.ndarray:
    """Rows of queries with a right answer, at most 2,000 of them, drawn at random."""
    classes, counts = np.unique(gallery, return_counts=True)
    size = dict(zip(classes.tolist(), counts.tolist(), strict=True))
    answered = np.array([size.get(label, 0) for label in labels.tolist()]) - (own >= 0) > 0
    rows = np.flatnonzero(answered)
    if not len(rows):
        raise DataError(
            "E_NO_RELEVANT",
            f"Expected a query with another image of its class in the index. Received: {len(labels)} queries, none",
        )
    return np.sort(np.random.default_rng(seed).permutation(rows)[:_QUERIES])


def _search_others(index: Index, vectors: np.ndarray, own: np.ndarray, k: int) -> np.ndarray:
    """`(Q, k)` rows found, without the query itself."""
    rows, _ = search(index, vectors, k + 1)
    others_first = np.argsort(rows == own[:, None], axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, others_first, axis=1)


def _hit_share(gallery: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> float:
    return float((gallery[rows] == labels[:, None]).any(axis=1).mean())


def _time(index: Index, vectors: np.ndarray, k: int) -> dict[str, Any]:
    search(index, vectors[:1], k)  # the first call pays for what the others do not
    times = []
    for row in range(len(vectors)):
        start = time.perf_counter()
        search(index, vectors[row : row + 1], k)
        times.append(1000 * (time.perf_counter() - start))
    p50, p95, p99 = np.quantile(times, [0.5, 0.95, 0.99]).tolist()
    return {"p50": p50, "p95": p95, "p99": p99, "queries": len(times)}


def _faults(report: Mapping[str, Any]) -> list[str]:
    limits, faults = report["limits"], []
    for name, values in report["metrics"].items():
        lost = values["exact"] - values["through_index"]
        if lost > limits["max_loss"] + 1e-9:
            faults.append(
                f"Through the index {metric_name(name)} is {100 * values['through_index']:.1f} %, "
                f"{100 * lost:.1f} points below an exact search; {100 * limits['max_loss']:g} are allowed."
            )
    p99, memory = report["latency_ms"]["p99"], report["memory_mib"]
    if limits["max_p99_ms"] and p99 > limits["max_p99_ms"]:
        faults.append(f"99 % of searches take up to {p99:.2f} ms; the limit is {limits['max_p99_ms']:g} ms.")
    taken = max(memory["files"], memory["resident"])
    if limits["max_memory_mib"] and taken > limits["max_memory_mib"]:
        faults.append(f"The index takes {taken:,.1f} MiB; the limit is {limits['max_memory_mib']:g} MiB.")
    return faults


def _resident() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024
