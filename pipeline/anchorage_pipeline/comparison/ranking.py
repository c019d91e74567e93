"""What repeated runs say: means with standard errors, paired differences, ranks.

A unit is what was drawn anew for each run: a fold of classes, or else a seed. Runs that share a unit are averaged
first, so that the standard error counts independent things only.

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
        units: how many units.
    """

    mean: float
    error: float
    units: int


class Difference(NamedTuple):
    """What one setting has over another on the same units.

    Args:
        mean: mean difference.
        error: its standard error; nan for a single unit.
        units: how many units.
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
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


class Ranks(NamedTuple):
    """Mean ranks of k settings over n units.

    Args:
        means: `(k,)` mean rank, 1 being the best.
        p: of Friedman's test that all are alike.
        critical_difference: mean ranks nearer than this are not told apart, at 95 %.
        groups: maximal sets of columns that are not told apart, each from its best to its worst.
        units: n.
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
    reach = float(stats.t.ppf(0.975, count - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, count - 1)) if error > 0 else float(mean == 0)
    return Difference(mean, error, count, mean - reach, mean + reach, p)


def unit_means(values: Sequence[float], units: Sequence[Hashable]) -> np.ndarray:
    """Mean of each unit's values, units in the order they first come."""
    gathered: dict[Hashable, list[float]] = {}
    for value, unit in zip(values, units, strict=True):
        gathered.setdefault(unit, []).append(value)
    return np.array([np.mean(group) for group in gathered.values()])


def holm(p_values: Sequence[float]) -> np.ndarray:
    """P-values adjusted for their number: Holm, Scandinavian Journal of Statistics 6, 1979.

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, float)
    order = np.argsort(values)
    adjusted = np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1))
    result = np.empty(len(order))
    result[order] = np.minimum(adjusted, 1.0)
    return result


def rank_settings(values: np.ndarray) -> Ranks:
    """Rank the columns of `values` (n units, k settings), more being better.

    Raises:
        ValueError: for fewer than two units or three settings: Friedman's test says nothing of those.
    """
    from scipy import stats

    values = np.asarray(values, float)
    units, settings = values.shape
    if units < 2 or settings < 3:
        raise ValueError(f"Expected at least 2 units and 3 settings. Received: {units} and {settings}")
    means = stats.rankdata(-values, axis=1).mean(axis=0)
    with np.errstate(invalid="ignore"):
        p = float(stats.friedmanchisquare(*values.T).pvalue)  # nan where all values of each unit are equal
    quantile = float(stats.studentized_range.ppf(0.95, settings, math.inf)) / math.sqrt(2)
    critical = quantile * math.sqrt(settings * (settings + 1) / (6 * units))
    return Ranks(means, 1.0 if math.isnan(p) else p, critical, _groups(means, critical), units)


def _groups(means: np.ndarray, critical: float) -> list[list[int]]:
    order = np.argsort(means, kind="stable")
    groups: list[list[int]] = []
    last_end = 0
    for start in range(len(order)):
        end = int(np.searchsorted(means[order], means[order[start]] + critical, side="right"))
        if end - start > 1 and end > last_end:  # else it lies within the group before
            groups.append(order[start:end].tolist())
            last_end = end
    return groups
