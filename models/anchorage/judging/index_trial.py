"""Evaluation of the index: metrics of approximate search, latency and memory against their limits."""

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

_QUERIES = 2000  # largest number of queries
_TIMED = 500  # queries to measure the latency with
_MIB = 1 << 20


def judge_index(
    folder: str | Path,
    gallery: "Embeddings",
    queries: "Embeddings",
    *,
    neighbors: int,
    settings: JudgeSettings,
) -> dict[str, Any]:
    """Compare search through the index with exact search, and check its metrics, latency and memory.

    Args:
        folder: folder of the saved index.
        gallery: embeddings of the rows of the index, in the same order.
        queries: embeddings of the queries; one that is in the gallery is excluded from its own results.
        neighbors: neighbors per query.
        settings: the limits `index_loss`, `index_p99_ms` and `index_memory_mib`; the seed samples the queries if there
            are more than 2,000.

    Returns:
        JSON-ready dict: `metrics` (`recall@1` and `recall@k`, each with `exact` and `through_index`), `neighbor_recall`
        (share of the true neighbors found), `latency_ms` (`p50`, `p95`, `p99` of `queries` searched one at a time),
        `memory_mib` (`files`, and `resident`, the growth of the process), `limits`, `queries`, `kind`, and `faults`,
        one sentence per exceeded limit. For an index with leaves also `trade`: for several numbers of leaves to search,
        fewest first, `neighbor_recall`, `p50` in ms, and which is `chosen`. `trials` are the parameters that were
        measured when the index was built, `chosen` those of the index, and `rare` has the recall of rare classes.

    Raises:
        DataError: `E_RELEASE_MIXED` if index and gallery differ in rows, `E_NO_RELEVANT` if no query has a relevant
            item.
    """
    limits = {
        "max_loss": settings.index_loss,
        "max_p99_ms": settings.index_p99_ms,
        "max_memory_mib": settings.index_memory_mib,
    }
    before = _resident_bytes()
    index = load_index(folder, dimension=gallery.dimension)
    growth = max(0.0, (_resident_bytes() - before) / _MIB)
    if index.rows != len(gallery):
        raise DataError(
            "E_RELEASE_MIXED",
            f"Expected an embedding for each of the {index.rows} rows of the index. Received: {len(gallery)}",
        )
    row_of_id = {id_: row for row, id_ in enumerate(gallery.ids.tolist())}
    own = np.array([row_of_id.get(id_, -1) for id_ in queries.ids.tolist()], np.int64)
    chosen = _choose_queries(gallery.labels, queries.labels, own, settings.seed)
    queries, own = queries.select(chosen), own[chosen]
    k = min(neighbors, len(gallery) - int((own >= 0).any()))
    exact, similarities = nearest_neighbors(queries.vectors, gallery.vectors, k, own)
    approximate = _search_others(index, queries.vectors, own, k)

    def recall(rows: np.ndarray) -> float:
        scores = np.einsum("nkd,nd->nk", gallery.vectors[rows], queries.vectors)
        tolerance = 1e-5 * np.maximum(1, np.abs(similarities[:, -1:]))
        return float(np.minimum((scores >= similarities[:, -1:] - tolerance).sum(axis=1), k).mean() / k)

    report: dict[str, Any] = {
        "kind": index.facts["kind"],
        "queries": len(queries),
        "neighbors": k,
        "neighbor_recall": recall(approximate),
        "metrics": {
            f"recall@{depth}": {
                "exact": _hit_share(gallery.labels, queries.labels, exact[:, :depth]),
                "through_index": _hit_share(gallery.labels, queries.labels, approximate[:, :depth]),
            }
            for depth in sorted({1, k})
        },
        "latency_ms": _time(index, queries.vectors[:_TIMED], k),
        "memory_mib": {
            "files": sum(path.stat().st_size for path in Path(folder, "scann").rglob("*") if path.is_file()) / _MIB,
            "resident": growth,
        },
        "limits": limits,
    }
    facts = index.facts
    if len(facts.get("trials", ())) > 2:
        parameters = ("leaves", "soar", "stored", "leaves_to_search", "reorder")
        report |= {name: facts[name] for name in ("trials", "min_recall")}
        report["chosen"] = {name: facts[name] for name in parameters}
    if "rare" in facts:
        report["rare"] = facts["rare"]
    if index.facts["leaves"] > 1:
        report["trade"] = [
            {
                "leaves": leaves,
                "neighbor_recall": recall(_search_others(other, queries.vectors, own, k)),
                "p50": _time(other, queries.vectors[:_TIMED], k)["p50"],
                "chosen": leaves == index.facts["leaves_to_search"],
            }
            for leaves, other in _with_other_leaves(index)
        ]
    return {**report, "faults": _faults(report)}


def _with_other_leaves(index: Index) -> list[tuple[int, Index]]:
    """Return the index with its own number of leaves to search, and with all leaves, a half, a quarter, and so on."""
    leaves, chosen = index.facts["leaves"], index.facts["leaves_to_search"]
    tried = sorted({chosen, *(-(-leaves // 2**halvings) for halvings in range(8))})
    return [(count, replace(index, facts={**index.facts, "leaves_to_search": count})) for count in tried]


def _choose_queries(gallery: np.ndarray, labels: np.ndarray, own: np.ndarray, seed: int) -> np.ndarray:
    """Sample at most 2,000 queries with a relevant item in the gallery; return their rows."""
    classes, counts = np.unique(gallery, return_counts=True)
    size = dict(zip(classes.tolist(), counts.tolist(), strict=True))
    relevant = np.array([size.get(label, 0) for label in labels.tolist()]) - (own >= 0)
    rows = np.flatnonzero(relevant > 0)
    if not len(rows):
        raise DataError(
            "E_NO_RELEVANT",
            f"Expected a query with another image of its class in the index. Received: {len(labels)} queries, none",
        )
    return np.sort(np.random.default_rng(seed).permutation(rows)[:_QUERIES])


def _search_others(index: Index, vectors: np.ndarray, own: np.ndarray, k: int) -> np.ndarray:
    """Search `k` neighbors of each query without the query itself; return the rows `(Q, k)`."""
    rows, _ = search(index, vectors, k + 1)
    others_first = np.argsort(rows == own[:, None], axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, others_first, axis=1)


def _hit_share(gallery: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> float:
    return float((gallery[rows] == labels[:, None]).any(axis=1).mean())


def _time(index: Index, vectors: np.ndarray, k: int) -> dict[str, Any]:
    search(index, vectors[:1], k)  # warm up
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
    used = max(memory["files"], memory["resident"])
    if limits["max_memory_mib"] and used > limits["max_memory_mib"]:
        faults.append(f"The index takes {used:,.1f} MiB; the limit is {limits['max_memory_mib']:g} MiB.")
    return faults


def _resident_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024
