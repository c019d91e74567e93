"""Measurement of an index on probes: recall and time over leaves to search and candidates to reorder."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from anchorage.retrieval.index import Index, check_queries, search
from anchorage.retrieval.neighbors import nearest_neighbors

MANY_ROWS = 500_000  # from here on more is tried and measured: searches take long, and a margin of recall costs most
_PROBES, _PROBES_OF_MANY = 1_024, 4_096
_SINGLE = 200  # probes searched one at a time, for the 99th percentile
_NEAR = 1e-5  # a row within this distance of the last true neighbor counts as a true neighbor
_REORDER = (2, 3, 4, 6, 9, 12, 18, 25, 50)  # candidates to reorder, per neighbor
_STEP = 1.25  # from one number of leaves to the next
_ABOVE = 0.4  # the search continues above the required recall until this share of the missing recall is gained
_SLOWER = 2.0  # it stops at this multiple of the best time
_FLAT, _GAIN = 4, 5e-4  # or where the recall gains less in as many steps
_MOST_CHECKED = 16  # trials
_CLOSE = 1.3  # trials up to this multiple of the best time are timed again
_REPEATS = 4


@dataclass(frozen=True)
class IndexLimits:
    """Limits of an index.

    Args:
        min_recall: lowest share of the true neighbors that the index finds, in [0, 1].
        max_p99_ms: longest time of 99 % of the queries, searched one at a time; 0 for no limit.
        max_memory_mib: largest size of the index in memory; 0 for no limit.
    """

    min_recall: float = 0.95
    max_p99_ms: float = 0
    max_memory_mib: float = 0

    def describe(self) -> str:
        """Return the limits as words."""
        parts = [f"recall {self.min_recall:g}"]
        parts += [f"{self.max_p99_ms:g} ms for 99 % of the queries"] if self.max_p99_ms else []
        parts += [f"{self.max_memory_mib:g} MiB"] if self.max_memory_mib else []
        return ", ".join(parts)


class Trial(NamedTuple):
    """Parameters of an index with what was measured.

    Attributes:
        leaves: leaves of the tree; 0 for brute force.
        soar: lambda of SOAR; 0 without it.
        stored: type of the stored vectors.
        leaves_to_search: leaves that a query searches.
        reorder: candidates whose exact similarity is computed.
        recall: share of the true neighbors found: the lower value of two halves of the probes.
        ms: CPU milliseconds per query, in a batch on one thread.
        p99_ms: 99th percentile of the time of a single query; None if it was not measured.
        memory_mib: size of vectors and codes.
    """

    leaves: int
    soar: float
    stored: str
    leaves_to_search: int
    reorder: int
    recall: float
    ms: float
    p99_ms: float | None
    memory_mib: float

    def describe(self) -> str:
        """Return parameters and measurements as words."""
        tree = f"{self.leaves_to_search:,} of {self.leaves:,} leaves, {self.reorder} candidates reordered"
        p99 = "" if self.p99_ms is None else f", 99 % of the queries in {self.p99_ms:.3g} ms"
        kind = tree if self.leaves else "brute force"
        return f"{kind}: recall {self.recall:.4f}{p99}, {self.memory_mib:,.1f} MiB"


class Probes:
    """Queries with their true nearest neighbors, to measure the recall of an index.

    Args:
        gallery: `(M, D)` rows of the index.
        queries: `(N, D)`; None for gallery rows, which are excluded from their own results.
        neighbors: neighbors per query.
        seed: samples at most 1,024 probes, and 4,096 of half a million rows and more.
        rows: rows to sample from; None for all.
    """

    def __init__(
        self,
        gallery: np.ndarray,
        queries: np.ndarray | None,
        neighbors: int,
        seed: int,
        rows: np.ndarray | None = None,
    ):
        self.gallery = gallery
        source = gallery if queries is None else queries
        among = np.arange(len(source)) if rows is None else rows
        most = _PROBES if len(gallery) < MANY_ROWS else _PROBES_OF_MANY
        chosen = np.random.default_rng(seed).permutation(among)[:most]
        self.own = chosen if queries is None else None
        self.queries = check_queries(source[chosen], gallery.shape[1])
        self.neighbors = min(neighbors, len(gallery) - (queries is None))
        if self.neighbors:
            _, similarities = nearest_neighbors(self.queries, gallery, self.neighbors, self.own)
            last = similarities[:, -1]
            self.least = last - _NEAR * np.maximum(1, np.abs(last))

    def recall(self, index: Index) -> float:
        """Compute the share of true neighbors that the index finds: the lower value of two halves of the probes."""
        return self.search(index)[0]

    def search(self, index: Index) -> tuple[float, float]:
        """Return the recall, and the CPU milliseconds per query."""
        if not self.neighbors or not len(self.queries):  # a gallery of one row
            return 1.0, 0.0
        start = time.process_time()
        rows, _ = search(index, self.queries, self.neighbors + (self.own is not None))
        spent = 1000 * (time.process_time() - start) / len(self.queries)
        similarities = np.einsum("nkd,nd->nk", self.gallery[rows], self.queries)
        if self.own is not None:
            similarities[rows == self.own[:, None]] = -np.inf
        hits = (similarities >= self.least[:, None]).sum(axis=1)
        recalls = np.minimum(hits, self.neighbors) / self.neighbors
        return float(min(recalls[::2].mean(), recalls[1::2].mean() if len(recalls) > 1 else 1.0)), spent

    def p99_ms(self, index: Index) -> float:
        """Return the 99th percentile of the milliseconds of a single query."""
        times = []
        for query in self.queries[:_SINGLE, None]:
            start = time.perf_counter()
            search(index, query, max(1, self.neighbors))
            times.append(1000 * (time.perf_counter() - start))
        return float(np.quantile(times, 0.99)) if times else 0.0


def measure(index: Index, probes: Probes, limits: IndexLimits, memory_mib: float) -> list[Trial]:
    """Measure recall and time over the leaves to search and the candidates to reorder.

    More leaves are tried until the recall is well above the limit or rises no more, or the time is twice the best. The
    fastest trials that reach the recall are timed repeatedly, which evens out other work on the machine.
    """
    facts = index.facts
    best, enough = math.inf, 1 - (1 - limits.min_recall) * (1 - _ABOVE)
    trials = []
    for reorder in _candidates(index):
        recalls: list[float] = []
        for searched in _ladder(facts["leaves"]):
            recall, ms = probes.search(index.with_facts(leaves_to_search=searched, reorder=reorder))
            place = (facts["leaves"], facts["soar"], facts["stored"], searched, reorder)
            trials.append(Trial(*place, recall, ms, None, memory_mib))
            if recall >= limits.min_recall:
                best = min(best, ms)
            saturated = len(recalls) >= _FLAT and recall - recalls[-_FLAT] < _GAIN
            recalls.append(recall)
            if recall >= enough or saturated or ms > _SLOWER * best:
                break

    def timed(trial: Trial) -> Trial:
        if trial.recall < limits.min_recall or trial.ms > _CLOSE * best:
            return trial
        tried = apply(index, trial)
        return trial._replace(ms=min(trial.ms, *(probes.search(tried)[1] for _ in range(_REPEATS))))

    return [timed(trial) for trial in trials]


def choose(
    index: Index, trials: Sequence[Trial], check: Probes, limits: IndexLimits
) -> tuple[Trial | None, list[Trial]]:
    """Return the fastest trial that keeps to the limits on probes that it was not chosen with.

    Returns:
        The trial, or None, and all trials that were checked, with the recall and the time of a single query there.
    """
    checked: list[Trial] = []
    for trial in sorted(trials, key=lambda trial: trial.ms):
        if trial.recall < limits.min_recall:
            continue
        tried = apply(index, trial)
        recall, p99 = check.recall(tried), check.p99_ms(tried)
        checked.append(trial._replace(recall=recall, p99_ms=p99))
        if _excess(checked[-1], limits) <= 0:
            return checked[-1], checked
        if len(checked) == _MOST_CHECKED:
            break
    return None, checked


def apply(index: Index, trial: Trial) -> Index:
    """Return the index with the parameters of the trial."""
    return index.with_facts(leaves_to_search=trial.leaves_to_search, reorder=trial.reorder)


def nearest_miss(trials: Sequence[Trial], limits: IndexLimits) -> Trial:
    """Return the trial whose largest excess over a limit is the smallest, of those whose single queries were timed."""
    timed = [trial for trial in trials if trial.p99_ms is not None]
    return min(timed, key=lambda trial: _excess(trial, limits))


def fastest_by_recall(trials: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the trials that no other one beats in both recall and time, fastest first."""
    front: list[Mapping[str, Any]] = []
    for trial in sorted(trials, key=lambda trial: (trial["ms"], -trial["recall"])):
        if not front or trial["recall"] > front[-1]["recall"]:
            front.append(trial)
    return front


def _candidates(index: Index) -> list[int]:
    return [factor * index.facts["neighbors"] for factor in _REORDER] if index.facts["leaves"] else [0]


def _ladder(leaves: int) -> list[int]:
    """Return numbers of leaves to search, each about a quarter more than the one before, up to all."""
    steps = [math.ceil(leaves / _STEP**step) for step in range(math.ceil(math.log(max(leaves, 1), _STEP)) + 1)]
    return sorted({*steps, min(leaves, 1)})


def _excess(trial: Trial, limits: IndexLimits) -> float:
    """Return by what share the trial exceeds a limit, the largest; 0 or less if it keeps to all."""
    p99 = (trial.p99_ms or 0) / limits.max_p99_ms - 1 if limits.max_p99_ms else 0
    memory = trial.memory_mib / limits.max_memory_mib - 1 if limits.max_memory_mib else 0
    return max(limits.min_recall - trial.recall, p99, memory)
