"""Standard errors, intervals and ranks against hand sums, published tables and scipy's own tests."""

import math

import numpy as np
import pytest
from scipy import stats

from anchorage_pipeline.comparison.ranking import estimate, paired_difference, rank_settings


def test_runs_of_one_unit_are_averaged_first():
    # units 1 and 4: mean 2.5, standard deviation 3 / sqrt 2, error 1.5
    assert estimate([0.0, 2.0, 4.0], ["f", "f", "g"]) == pytest.approx((2.5, 1.5, 2))
    assert math.isnan(estimate([1.0, 2.0], ["f", "f"]).error)


def test_interval_by_hand():
    """Differences 1, 2, 3 over three units: 2 +- 4.3027 / sqrt 3."""
    difference = paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0], ["f", "g", "h"])
    assert difference.mean == 2.0
    assert difference.error == pytest.approx(1 / math.sqrt(3))
    assert difference.low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-5)
    assert difference.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-5)
    assert not difference.measured


def test_p_value_is_that_of_the_paired_t_test():
    random = np.random.default_rng(0)
    ours, theirs = random.normal(size=(2, 6))
    difference = paired_difference(ours + 1, theirs, list(range(6)))
    assert difference.p == pytest.approx(stats.ttest_rel(ours + 1, theirs).pvalue)
    assert difference.measured == (difference.p < 0.05)


def test_one_unit_measures_nothing():
    difference = paired_difference([0.9, 0.8], [0.1, 0.2], ["f", "f"])
    assert difference.mean == pytest.approx(0.7)
    assert not difference.measured
    assert math.isnan(difference.p)


@pytest.mark.parametrize(("offset", "measured", "p"), [(0.0, False, 1.0), (0.25, True, 0.0)])
def test_equal_differences(offset, measured, p):
    difference = paired_difference([0.5 + offset, 0.25 + offset], [0.5, 0.25], ["f", "g"])
    assert (difference.measured, difference.p) == (measured, p)


# Demsar 2006, table 5a: q(0.05) for 2 to 10 classifiers.
@pytest.mark.parametrize(("settings", "quantile"), [(3, 2.343), (5, 2.728), (10, 3.164)])
def test_critical_difference_is_that_of_the_published_table(settings, quantile):
    values = np.random.default_rng(1).normal(size=(7, settings))
    expected = quantile * math.sqrt(settings * (settings + 1) / (6 * 7))
    assert rank_settings(values).critical_difference == pytest.approx(expected, rel=5e-4)


def test_ranks_by_hand():
    """More is better; equal values share their ranks."""
    ranks = rank_settings(np.array([[0.9, 0.5, 0.1], [0.8, 0.8, 0.2]]))
    assert ranks.means.tolist() == [1.25, 1.75, 3.0]
    assert ranks.units == 2
    assert ranks.groups == [[0, 1, 2]]  # 2.343 sqrt(12 / 12) = 2.343 reaches from 1.25 to 3


def test_friedman_p_is_scipys():
    values = np.random.default_rng(2).normal(size=(8, 4))
    assert rank_settings(values).p == pytest.approx(stats.friedmanchisquare(*values.T).pvalue)
    assert rank_settings(np.ones((3, 3))).p == 1.0


def test_groups_are_maximal():
    """40 units in which the order 0 1 2 3 never changes: mean ranks 1 to 4, with a critical difference of 0.742."""
    values = np.tile([4.0, 3.0, 2.0, 1.0], (40, 1))
    assert rank_settings(values).groups == []
    # with 8 units the critical difference is 2.569 sqrt(20 / 48) = 1.66: neighbours only are joined
    assert rank_settings(values[:8]).groups == [[0, 1], [1, 2], [2, 3]]


@pytest.mark.parametrize("shape", [(1, 5), (5, 2)])
def test_too_little_to_rank(shape):
    with pytest.raises(ValueError, match="at least 2 units and 3 settings"):
        rank_settings(np.ones(shape))
