"""Thresholds from hand-made counts of pairs."""

import numpy as np
import pytest

from anchorage.judging.thresholds import choose_thresholds
from anchorage.retrieval.pairs import BINS, PairStatistics


def statistics(positive, negative):
    """Counts from lists of (similarity, pairs); each similarity is the middle of its step."""
    counts = []
    for pairs in (positive, negative):
        count = np.zeros(BINS, np.int64)
        for similarity, number in pairs:
            count[int((similarity + 1) * BINS / 2)] += number
        counts.append(count)
    empty = np.empty(0)
    return PairStatistics(empty, *counts, empty, empty, 0)


def test_pairs_that_a_threshold_can_separate():
    found = choose_thresholds(statistics([(0.90005, 10)], [(0.10005, 1000)]), 15, "val")
    assert found["equal_error"]["false_accept"] == 0
    assert found["equal_error"]["true_accept"] == 1
    assert 0.1 < found["equal_error"]["threshold"] <= 0.9
    assert found["likely_match"]["true_accept"] == 1
    assert found["pairs"] == {"same_class": 10, "other": 1000}
    assert found["split"] == "val"


def test_one_percent_of_false_accepts_is_the_most():
    # 9 of 1000 other pairs at 0.7, 20 at 0.5: only above 0.5 are there at most 1 %
    found = choose_thresholds(
        statistics([(0.80005, 60), (0.60005, 40)], [(0.70005, 9), (0.50005, 20), (0.00005, 971)]), 15, "val"
    )
    likely = found["likely_match"]
    assert likely["threshold"] == pytest.approx(0.5001)
    assert likely["false_accept"] == pytest.approx(0.009)
    assert likely["true_accept"] == 1


def test_equal_error_where_both_kinds_err_alike():
    # at 0.5: 10 % of the same-class pairs are below, 10 % of the others above
    found = choose_thresholds(statistics([(0.80005, 90), (0.20005, 10)], [(0.10005, 90), (0.70005, 10)]), 15, "val")
    assert found["equal_error"]["true_accept"] == pytest.approx(0.9)
    assert found["equal_error"]["false_accept"] == pytest.approx(0.1)
    assert 0.2 < found["equal_error"]["threshold"] <= 0.7


def test_hopeless_overlap_accepts_next_to_nothing():
    found = choose_thresholds(statistics([(0.50005, 100)], [(0.99995, 100)]), 15, "val")
    assert found["likely_match"] == {
        "threshold": 1.0,
        "false_accept": 0.0,
        "true_accept": 0.0,
        "rule": "at most 1 % of pairs of different classes score as high",
    }


def test_without_one_kind_of_pair_there_is_a_reason_instead():
    found = choose_thresholds(statistics([(0.50005, 3)], []), 15, "val")
    assert found == {"split": "val", "reason": "split 'val' has 3 pairs of one class and 0 of different classes"}


def test_fewer_than_a_hundred_pairs_of_classes_give_a_reason_instead():
    pairs = statistics([(0.80005, 60)], [(0.10005, 5000)])
    reason = "14 classes of split 'val' with several images are 91 pairs of classes, 100 are needed"
    assert choose_thresholds(pairs, 14, "val") == {"split": "val", "reason": reason}
    assert "likely_match" in choose_thresholds(pairs, 15, "val")
