"""From the records of the runs to the numbers of the table."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anchorage_pipeline.comparison.plan import Block, Candidate
from anchorage_pipeline.comparison.ranking import (
    Difference,
    Estimate,
    Ranks,
    estimate,
    holm,
    paired_difference,
    rank_settings,
    unit_means,
)
from anchorage_pipeline.comparison.settings import Comparison, Entry


class Chosen(NamedTuple):
    """What the trials of an entry led to.

    Args:
        candidate: the best one; None while a trial is missing or if all failed.
        values: the primary metric of each trial; None where it failed or is missing.
        at_end: paths of values at either end of their list, so that a better one may lie outside.
        missing: whether a trial has no record yet.
        tried: the values of each trial by the paths of their keys.
    """

    candidate: Candidate | None
    values: list[float | None]
    at_end: list[str]
    missing: bool = False
    tried: Sequence[Mapping[str, Any]] = ()


@dataclass
class Row:
    """One entry's numbers.

    Args:
        entry: from the file.
        chosen: what its trials led to.
        records: of its runs, by block; those that failed have an "error".
        values: mean of each metric over the units, in [0, 1].
        differences: from the entry it is compared with.
        holds: metrics whose difference remains after Holm's correction over all entries.
        seconds: processor seconds of a training, mean.
        time_ratio: to the entry it is compared with, on the same blocks.
        memory: bytes that the training took beyond what the process held, median.
        memory_ratio: likewise.
        unlike: keys in which it differs from the others.
    """

    entry: Entry
    chosen: Chosen
    records: dict[Block, dict[str, Any]]
    unlike: list[str] = field(default_factory=list)
    values: dict[str, Estimate] = field(default_factory=dict)
    differences: dict[str, Difference] = field(default_factory=dict)
    holds: set[str] = field(default_factory=set)
    seconds: float = math.nan
    time_ratio: float = math.nan
    memory: float = math.nan
    memory_ratio: float = math.nan

    @property
    def label(self) -> str:
        return self.entry.label or self.entry.name

    @property
    def good(self) -> dict[Block, dict[str, Any]]:
        """The records of runs that came to an end."""
        return {block: record for block, record in self.records.items() if "error" not in record}

    @property
    def errors(self) -> list[str]:
        """What went wrong, each message once."""
        return list(dict.fromkeys(record["error"] for record in self.records.values() if "error" in record))

    def seconds_per_point(self, base: "Row", metric: str) -> float | None:
        """Extra processor seconds of a run for each point (percent) of a metric won; None where none was measured."""
        won = self.differences.get(metric)
        if won is None or not won.measured or won.mean <= 0:
            return None
        return (self.seconds - base.seconds) / (100 * won.mean)


@dataclass(frozen=True)
class Outcome:
    """All of it.

    Args:
        comparison: the file.
        blocks: what every entry was to be repeated over.
        rows: in the order of the file.
        ranks: of the entries that are alike and complete; None if there are too few.
        ranked: their names, in the order of the ranks' columns.
        pictures: files that were drawn.
    """

    comparison: Comparison
    blocks: Sequence[Block]
    rows: list[Row]
    ranks: Ranks | None
    ranked: list[str]
    pictures: Sequence[Path] = ()

    def row(self, name: str) -> Row:
        """The row of one entry."""
        return next(row for row in self.rows if row.entry.name == name)


def choose(candidates: Sequence[Candidate], records: Sequence[Mapping[str, Any] | None], primary: str) -> Chosen:
    """Take the candidate whose trial was best, the first of equals."""
    if len(candidates) == 1:
        return Chosen(candidates[0], [], [])
    values = [record["values"][primary] if record and "error" not in record else None for record in records]
    tried = [one.values for one in candidates]
    finished = [value for value in values if value is not None]
    missing = any(record is None for record in records)
    if missing or not finished:
        return Chosen(None, values, [], missing, tried)
    best = candidates[values.index(max(finished))]
    at_end = []
    for path, value in best.values.items():
        grid = list(dict.fromkeys(candidate.values[path] for candidate in candidates))
        if len(grid) > 2 and value in (grid[0], grid[-1]) and all(isinstance(v, int | float) for v in grid):
            at_end.append(path)
    return Chosen(best, values, at_end, tried=tried)


def summarize(comparison: Comparison, blocks: Sequence[Block], rows: list[Row]) -> Outcome:
    """Fill in means, differences and cost, and rank what is alike and complete."""
    by_name = {row.entry.name: row for row in rows}
    for row in rows:
        good = row.good
        if good:
            units = units_of(list(good))
            for metric in comparison.metrics:
                row.values[metric] = estimate([record["values"][metric] for record in good.values()], units)
            row.seconds = statistics.mean(record["cpu_seconds"] for record in good.values())
            row.memory = statistics.median(_taken(record) for record in good.values())
    for row in rows:
        if row.entry.against:
            _compare(row, by_name[row.entry.against], comparison.metrics)
    for metric in comparison.metrics:
        compared = [row for row in rows if metric in row.differences and not math.isnan(row.differences[metric].p)]
        for row, p in zip(compared, holm([row.differences[metric].p for row in compared]), strict=True):
            if p < 0.05:
                row.holds.add(metric)
    ranked = [row for row in rows if not row.unlike and len(row.good) == len(blocks)]
    ranks = None
    units = units_of(blocks)
    if len(ranked) >= 3 and len(set(units)) >= 2:
        values = [[row.good[block]["values"][comparison.primary] for block in blocks] for row in ranked]
        ranks = rank_settings(np.stack([unit_means(one, units) for one in values], axis=1))
    return Outcome(comparison, blocks, rows, ranks, [row.entry.name for row in ranked])


def units_of(blocks: Sequence[Block]) -> list[int]:
    """What counts as drawn anew in each block: its fold of classes, or its seed where all share one fold."""
    folds = [block.fold for block in blocks]
    if len(set(folds)) > 1:
        return [fold for fold in folds if fold is not None]
    return [block.seed for block in blocks]


def _compare(row: Row, base: Row, metrics: Sequence[str]) -> None:
    common = [block for block in row.good if block in base.good]
    if not common:
        return
    pairs = [(row.good[block], base.good[block]) for block in common]
    for metric in metrics:
        ours, theirs = ([record["values"][metric] for record in side] for side in zip(*pairs, strict=True))
        row.differences[metric] = paired_difference(ours, theirs, units_of(common))
    row.time_ratio = sum(ours["cpu_seconds"] for ours, _ in pairs) / sum(theirs["cpu_seconds"] for _, theirs in pairs)
    row.memory_ratio = statistics.median(_taken(o) for o, _ in pairs) / statistics.median(_taken(t) for _, t in pairs)


def _taken(record: Mapping[str, Any]) -> int:
    return record["memory_peak"] - record["memory_before"]
