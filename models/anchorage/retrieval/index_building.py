"""Building of a ScaNN index that keeps to limits of recall, latency and memory, at the least cost per query.

Below 20,000 rows search is brute force, as fast there and exact. Above, rows are partitioned by a tree of about
sqrt(rows) leaves, scored by asymmetric hashing with an anisotropic threshold of 0.2, and the best candidates are
reordered by their exact similarity: Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector
Quantization", ICML 2020. From half a million rows on, a tree with twice the leaves and SOAR (Sun et al., NeurIPS 2023)
are tried, too. Where memory is short, vectors are stored as bfloat16 or int8. A gallery of more than ten million rows
is built in shards of equal size, by one plan, and its parameters are chosen once, by what the merged results measure.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from anchorage.errors import DataError, GateError, UsageError
from anchorage.retrieval.index import Index
from anchorage.retrieval.index_tuning import MANY_ROWS, IndexLimits, Probes, Trial, apply, choose, measure, nearest_miss
from anchorage.retrieval.neighbors import check_vectors
from anchorage.retrieval.sharded import Searcher, merge_shards

SHARD_ROWS = 10_000_000  # most rows of a shard, about 15 GB while it is built of 128 numbers each
BRUTE_FORCE_ROWS = 20_000  # below this number exact search is as fast
_FEWEST_ROWS = 1_000  # of a tree, where brute force takes too long
_TRAINING_ROWS = 250_000  # rows to train the partitioning on; more only take longer
_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
_MIB = 1 << 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How to build an index.

    Args:
        leaves: partitions of the tree of each shard; 0 for brute force.
        stored: type of the stored vectors.
        soar: lambda of SOAR; 0 without it.
        shards: number of shards.
    """

    leaves: int
    stored: str = "float32"
    soar: float = 0
    shards: int = 1

    def bounds(self, rows: int) -> list[tuple[int, int]]:
        """Return the first row of each shard, and the last one plus 1."""
        return list(pairwise(rows * number // self.shards for number in range(self.shards + 1)))

    def memory_mib(self, rows: int, dimension: int) -> float:
        """Return the size of vectors, centers, and for each row, or twice with SOAR, its leaf and its code."""
        codes = (-(-dimension // 2) + 8) * (2 if self.soar else 1) if self.leaves else 0
        return (rows * (dimension * _BYTES[self.stored] + codes) + 4 * self.leaves * self.shards * dimension) / _MIB

    def describe(self) -> str:
        """Return the plan as words."""
        if not self.leaves:
            return f"brute force on {self.stored}"
        return f"a tree of {self.leaves:,} leaves{' with SOAR' if self.soar else ''} on {self.stored}"


def build_shard(vectors: np.ndarray, neighbors: int, plan: Plan) -> Searcher:
    """Build the searcher of one shard, from its `(m, D)` float32 rows."""
    from scann.scann_ops.py import scann_ops_pybind
    from scann.scann_ops.py.scann_builder import ReorderType

    stored = ReorderType[plan.stored.upper()]
    builder = scann_ops_pybind.builder(vectors, min(neighbors, len(vectors)), "dot_product")
    if not plan.leaves:
        return builder.score_brute_force(stored).build()
    options = {"soar_lambda": plan.soar} if plan.soar else {}
    sample = min(len(vectors), _TRAINING_ROWS)
    tree = builder.tree(plan.leaves, max(1, plan.leaves // 8), training_sample_size=sample, **options)
    scored = tree.score_ah(2, anisotropic_quantization_threshold=0.2)
    return scored.reorder(6 * neighbors, stored).build()


def build_shards(vectors: np.ndarray, neighbors: int, plan: Plan) -> list[Searcher]:
    """Build the searchers of all shards in this process, one after the other."""
    return [build_shard(vectors[first:last], neighbors, plan) for first, last in plan.bounds(len(vectors))]


def build_index(
    vectors: np.ndarray,
    *,
    ids: Sequence[str] | np.ndarray | None = None,
    labels: np.ndarray | None = None,
    neighbors: int = 10,
    limits: IndexLimits = IndexLimits(),  # noqa: B008 (frozen)
    leaves: int = 0,
    shard_rows: int = SHARD_ROWS,
    build: Callable[[np.ndarray, int, Plan], list[Searcher]] = build_shards,
    probes: np.ndarray | None = None,
    seed: int = 0,
) -> Index:
    """Build the inner-product index of the gallery that answers fastest within the limits.

    Args:
        vectors: `(M, D)` float32, rows of unit length, in memory or mapped.
        ids: `(M,)` names of the rows, for error messages only.
        labels: `(M,)` classes of the rows, to measure the recall of rare classes by itself; None: it is not measured.
        neighbors: number of neighbors per query; at most the number of rows that a probe can find.
        limits: what the index must keep to.
        leaves: partitions of the tree of each shard; 0 for about the square root of its rows. Below 20,000 rows there
            is no tree.
        shard_rows: most rows of a shard. A larger gallery is split into as few shards as this allows.
        build: builds the shards of a plan; called with the vectors, `neighbors` and the plan.
        probes: `(N, D)` queries to measure with; None for gallery rows, which are excluded from their own results.
        seed: samples the probes from the gallery. ScaNN's own training has no seed.

    Raises:
        DataError: `E_VECTOR_NOT_FINITE`, `E_VECTOR_ZERO`, `E_VECTOR_SHAPE`, `E_INDEX_EMPTY`.
        UsageError: if `neighbors`, `leaves`, `shard_rows` or a limit is out of range.
        GateError: `E_INDEX_RECALL` or `E_INDEX_LIMITS` if no parameters keep to the limits, with the nearest ones.
    """
    _check_settings(neighbors, leaves, shard_rows, limits)
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2:
        raise DataError("E_VECTOR_SHAPE", f"Expected vectors of shape (rows, dimension). Received: {vectors.shape}")
    if not len(vectors):
        raise DataError("E_INDEX_EMPTY", "Expected at least one gallery vector to index. Received: none")
    check_vectors(vectors, ids)  # before any native code: ScaNN aborts the process on NaN

    lengths = np.sqrt(np.einsum("md,md->m", vectors, vectors))
    shards = -(-len(vectors) // shard_rows)
    facts = {
        "rows": len(vectors),
        "shards": [last - first for first, last in Plan(0, shards=shards).bounds(len(vectors))],
        "shard_rows": shard_rows,
        "dimension": vectors.shape[1],
        "distance": "dot_product",
        "normalized": bool(np.all(np.abs(lengths - 1) < 1e-3)),
        "neighbors": neighbors,
        "min_recall": limits.min_recall,
        "max_memory_mib": limits.max_memory_mib,
    }
    tuning, check = _halves(vectors, probes, neighbors, seed)
    best: tuple[Trial, Index] | None = None
    trials: list[Trial] = []
    for plan in _plans(len(vectors), vectors.shape[1], shards, leaves, limits):
        index = Index(merge_shards(build(vectors, neighbors, plan)), {**facts, **_describe(plan, len(vectors))})
        measured = measure(index, tuning, limits, plan.memory_mib(*vectors.shape))
        chosen, checked = choose(index, measured, check, limits)
        trials += [*measured, *checked]
        if chosen and (best is None or chosen.ms < best[0].ms):
            best = chosen, index
        if best and not plan.leaves:  # exact search keeps to the limits
            break
    if best is None:
        raise _infeasible(limits, trials, check.neighbors)
    chosen, index = best
    index = apply(index, chosen).with_facts(
        recall=chosen.recall, probes=len(check.queries), trials=[trial._asdict() for trial in trials]
    )
    found = f"recall@{check.neighbors} = {chosen.recall:.4f} over {len(check.queries)} probes"
    _log.info("index of %s: %s", index.facts["reason"], found)
    if labels is not None:
        index = index.with_facts(rare=_recall_of_rare_classes(index, vectors, np.asarray(labels), neighbors, seed))
    return index


def _halves(vectors: np.ndarray, probes: np.ndarray | None, neighbors: int, seed: int) -> tuple[Probes, Probes]:
    """Return probes to choose the parameters with, and others to check them with."""
    rows = np.random.default_rng(seed).permutation(len(vectors if probes is None else probes))
    if len(rows) < 2:
        both = Probes(vectors, probes, neighbors, seed)
        return both, both
    return Probes(vectors, probes, neighbors, seed, rows[::2]), Probes(vectors, probes, neighbors, seed, rows[1::2])


def _plans(rows: int, dimension: int, shards: int, leaves: int, limits: IndexLimits) -> Iterator[Plan]:
    """Yield the plans to try, with the most exact vectors that the memory allows."""
    total, rows = rows, rows // shards

    def stored(leaves: int, soar: float = 0) -> Plan:
        plans = [Plan(leaves, kind, soar, shards) for kind in _BYTES]
        fitting = (plan for plan in plans if plan.memory_mib(total, dimension) <= (limits.max_memory_mib or math.inf))
        return next(fitting, plans[-1])

    if rows < BRUTE_FORCE_ROWS:
        yield stored(0)
        if not limits.max_p99_ms or rows < _FEWEST_ROWS:
            return
    chosen = min(leaves or round(math.sqrt(rows)), rows // 2)
    yield stored(chosen)
    if rows >= MANY_ROWS:
        yield stored(chosen, 1.5)
        if not leaves:
            yield stored(2 * chosen)
            yield stored(2 * chosen, 1.5)


def _describe(plan: Plan, rows: int) -> dict[str, Any]:
    """Return the facts of a plan, with the reason as a text."""
    common = {"leaves": plan.leaves, "stored": plan.stored, "soar": plan.soar, "leaves_to_search": 0, "reorder": 0}
    shards = f"{plan.shards} shards of " if plan.shards > 1 else ""
    place = f"{shards}{rows // plan.shards:,} rows"
    if not plan.leaves:
        reason = f"{place} are fewer than {BRUTE_FORCE_ROWS:,}: brute force, which is exact"
        return {"kind": "brute_force", "reason": reason, **common}
    reason = f"{place}: {plan.describe()}, asymmetric hashing, the best candidates reordered exactly"
    return {"kind": "tree_ah", "reason": reason, **common}


def _recall_of_rare_classes(
    index: Index, vectors: np.ndarray, labels: np.ndarray, neighbors: int, seed: int
) -> dict[str, Any]:
    """Measure the recall of gallery rows of the smallest tenth of the classes."""
    names, counts = np.unique(labels, return_counts=True)
    largest = int(np.sort(counts)[(len(counts) - 1) // 10])
    rows = np.flatnonzero(np.isin(labels, names[counts <= largest]))
    probes = Probes(vectors, None, neighbors, seed, rows)
    return {"largest_class": largest, "probes": len(probes.queries), "recall": probes.recall(index)}


def _infeasible(limits: IndexLimits, trials: Sequence[Trial], neighbors: int) -> GateError:
    """Return the error that names what came nearest to the limits."""
    highest = max(trial.recall for trial in trials)
    if highest < limits.min_recall or all(trial.p99_ms is None for trial in trials):
        return GateError(
            "E_INDEX_RECALL",
            f"Expected an index that finds at least {limits.min_recall} of the true {neighbors} nearest rows. "
            f"Received: {highest:.4f} at most, with all leaves searched. Lower `min_recall`",
        )
    nearest = nearest_miss(trials, limits)
    return GateError(
        "E_INDEX_LIMITS",
        f"Expected an index within {limits.describe()}. Received none: the nearest, {nearest.describe()}. "
        "Raise a limit of the experiment file to what this one takes",
    )


def _check_settings(neighbors: int, leaves: int, shard_rows: int, limits: IndexLimits) -> None:
    checks = {
        "neighbors": (neighbors, "at least 1", neighbors >= 1),
        "min_recall": (limits.min_recall, "a share from 0 to 1", 0 <= limits.min_recall <= 1),
        "max_p99_ms": (limits.max_p99_ms, "0 (no limit) or more", limits.max_p99_ms >= 0),
        "max_memory_mib": (limits.max_memory_mib, "0 (no limit) or more", limits.max_memory_mib >= 0),
        "shard_rows": (shard_rows, "at least 1", shard_rows >= 1),
        "leaves": (leaves, "0 (chosen by the number of rows) or more", leaves >= 0),
    }
    for name, (value, expected, valid) in checks.items():
        if not valid:
            raise UsageError("E_INDEX_SETTING", f"Expected `{name}` to be {expected}. Received: {value}")
