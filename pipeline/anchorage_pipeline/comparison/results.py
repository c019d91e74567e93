"""Summarize the records of the runs into the numbers of the table."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anchorage.judging.bootstrap import holm
from anchorage_pipeline.comparison.plan import Block, Candidate
from anchorage_pipeline.comparison.ranking import (
    Difference,
    Estimate,
    Ranks,
    estimate,
    paired_difference,
    rank_settings,
    unit_means,
)
from anchorage_pipeline.comparison.settings import Comparison, Entry


class Chosen(NamedTuple):
    """Result of the trials of an entry.

    Args:
        candidate: the best candidate; None if a trial is missing or all failed.
        values: primary metric of each trial; None if it failed or is missing.
        at_end: paths of best values at an end of their list, beyond which a better one may lie.
        missing: whether a trial has no record yet.
        tried: values of each trial by the paths of their keys.
    """

    candidate: Candidate | None
    values: list[float | None]
    at_end: list[str]
    missing: bool = False
    tried: Sequence[Mapping[str, Any]] = ()


@dataclass
class Row:
    """The numbers of one entry.

    Args:
        entry: the entry of the comparison file.
        chosen: result of its trials.
        records: records of its runs by block; those of failed runs have an "error".
        values: mean of each metric over the units, in [0, 1].
        differences: paired difference of each metric to the entry that it is compared against.
        holds: metrics whose difference is significant after Holm's correction over all entries.
        seconds: mean CPU seconds of a training.
        time_ratio: ratio of `seconds` to the entry that it is compared against, on the same blocks.
        memory: median memory of a training in bytes, without what the process used before.
        memory_ratio: ratio of `memory`, likewise.
        unlike: keys in which the entry differs from the others.
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
        """The records of successful runs."""
        return {block: record for block, record in self.records.items() if "error" not in record}

    @property
    def errors(self) -> list[str]:
        """The distinct error messages of failed runs."""
        return list(dict.fromkeys(record["error"] for record in self.records.values() if "error" in record))

    def seconds_per_point(self, base: "Row", metric: str) -> float | None:
        """Extra CPU seconds of a run per point (percent) of gain in a metric; None if no gain was measured."""
        gain = self.differences.get(metric)
        if gain is None or not gain.measured or gain.mean <= 0:
            return None
        return (self.seconds - base.seconds) / (100 * gain.mean)


@dataclass(frozen=True)
class Outcome:
    """Result of a comparison.

    Args:
        comparison: the comparison file.
        blocks: the planned repetitions of every entry.
        rows: rows of the table, in the order of the file.
        ranks: ranks of the comparable and complete entries; None if there are too few.
        ranked: names of the ranked entries, in the column order of `ranks`.
        pictures: paths of the figures.
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
    """Choose the candidate with the best trial, the first one in case of a tie."""
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
    """Fill in means, differences and costs, and rank the comparable and complete entries."""
    by_name = {row.entry.name: row for row in rows}
    for row in rows:
        good = row.good
        if good:
            units = units_of(list(good))
            for metric in comparison.metrics:
                row.values[metric] = estimate([record["values"][metric] for record in good.values()], units)
            row.seconds = statistics.mean(record["cpu_seconds"] for record in good.values())
            row.memory = statistics.median(_memory(record) for record in good.values())
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
    """The unit of each block: its class fold, or its seed if all blocks share one fold."""
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
    row.memory_ratio = statistics.median(_memory(o) for o, _ in pairs) / statistics.median(_memory(t) for _, t in pairs)


def _memory(record: Mapping[str, Any]) -> int:
    return record["memory_peak"] - record["memory_before"]
