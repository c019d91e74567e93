"""Statistics of repeated runs: means with standard errors, paired differences, ranks.

A unit is the source of variation between runs: the class fold, or the seed if all runs share one fold. Runs of the same
unit are averaged first, so that the standard error is over independent samples.

Ranks: Friedman's test and Nemenyi's critical difference, as in Demsar, "Statistical Comparisons of Classifiers over
Multiple Data Sets", JMLR 7, 2006, section 3.2.2.
"""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean over units.

    Args:
        mean: mean of the units' means.
        error: its standard error; nan for a single unit.
        units: number of units.
    """

    mean: float
    error: float
    units: int


class Difference(NamedTuple):
    """Paired difference between two settings over the same units.

    Args:
        mean: mean difference.
        error: its standard error; nan for a single unit.
        units: number of units.
        low: lower end of the 95 % interval of Student's t.
        high: its upper end.
        p: two-sided p-value of the paired t-test; nan for a single unit.
    """

    mean: float
    error: float
    units: int
    low: float
    high: float
    p: float

    @property
    def measured(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


class Ranks(NamedTuple):
    """Mean ranks of k settings over n units.

    Args:
        means: `(k,)` mean ranks; 1 is the best.
        p: p-value of Friedman's test of the hypothesis that all settings are equal.
        critical_difference: mean ranks that differ by less are not significantly different, at 95 %.
        groups: maximal sets of columns without a significant difference, each from best to worst.
        units: number of units n.
    """

    means: np.ndarray
    p: float
    critical_difference: float
    groups: list[list[int]]
    units: int


def estimate(values: Sequence[float], units: Sequence[Hashable]) -> Estimate:
    """Mean and standard error over units.

    Example:
        >>> estimate([1.0, 3.0, 4.0], units=["a", "a", "b"])
        Estimate(mean=3.0, error=1.0, units=2)
    """
    means = unit_means(values, units)
    error = float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else math.nan
    return Estimate(float(means.mean()), error, len(means))


def paired_difference(ours: Sequence[float], theirs: Sequence[float], units: Sequence[Hashable]) -> Difference:
    """Mean of `ours - theirs`, run by run, with its interval over units."""
    from scipy import stats

    mean, error, count = estimate(np.subtract(ours, theirs).tolist(), units)
    if count < 2:
        return Difference(mean, error, count, -math.inf, math.inf, math.nan)
    half_width = float(stats.t.ppf(0.975, count - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, count - 1)) if error > 0 else float(mean == 0)
    return Difference(mean, error, count, mean - half_width, mean + half_width, p)


def unit_means(values: Sequence[float], units: Sequence[Hashable]) -> np.ndarray:
    """Mean of the values of each unit, in order of first appearance."""
    groups: dict[Hashable, list[float]] = {}
    for value, unit in zip(values, units, strict=True):
        groups.setdefault(unit, []).append(value)
    return np.array([np.mean(group) for group in groups.values()])


def rank_settings(values: np.ndarray) -> Ranks:
    """Rank the columns of `values` (n units, k settings); higher values are better.

    Raises:
        ValueError: for fewer than two units or three settings, for which Friedman's test is not defined.
    """
    from scipy import stats

    values = np.asarray(values, float)
    units, settings = values.shape
    if units < 2 or settings < 3:
        raise ValueError(f"Expected at least 2 units and 3 settings. Received: {units} and {settings}")
    means = stats.rankdata(-values, axis=1).mean(axis=0)
    with np.errstate(invalid="ignore"):
        p = float(stats.friedmanchisquare(*values.T).pvalue)  # nan if all values of each unit are equal
    quantile = float(stats.studentized_range.ppf(0.95, settings, math.inf)) / math.sqrt(2)
    critical = quantile * math.sqrt(settings * (settings + 1) / (6 * units))
    return Ranks(means, 1.0 if math.isnan(p) else p, critical, _groups(means, critical), units)


def _groups(means: np.ndarray, critical: float) -> list[list[int]]:
    order = np.argsort(means, kind="stable")
    groups: list[list[int]] = []
    last_end = 0
    for start in range(len(order)):
        end = int(np.searchsorted(means[order], means[order[start]] + critical, side="right"))
        if end - start > 1 and end > last_end:  # otherwise it is part of the previous group
            groups.append(order[start:end].tolist())
            last_end = end
    return groups
