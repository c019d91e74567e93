"""Verification against scikit-learn on similarities of the same steps, and against what a bootstrap must give."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from anchorage.retrieval.pairs import BINS, EDGES, pair_statistics
from anchorage.retrieval.verification import verification


def space(rows=150, classes=12, noise=0.8, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    vectors = rng.normal(size=(classes, 8))[labels] + noise * rng.normal(size=(rows, 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32"), labels, np.full(rows, "both")


def all_pairs(vectors, labels):
    """Truth and stepped similarity of every ordered pair."""
    others = ~np.eye(len(labels), dtype=bool)
    steps = np.clip(((vectors @ vectors.T + 1) * (BINS / 2)).astype(int), 0, BINS - 1)
    return (labels[:, None] == labels)[others], EDGES[steps[others]]


@pytest.fixture(scope="module")
def measured():
    table = space()
    return *table[:2], verification(pair_statistics(*table), *table, resamples=200, seed=3)


def test_areas_equal_scikit_learn(measured):
    vectors, labels, found = measured
    truth, scores = all_pairs(vectors, labels)
    assert found["pairs"] == {"same_class": int(truth.sum()), "other": int((~truth).sum())}
    assert found["auc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert found["auprc"] == pytest.approx(average_precision_score(truth, scores), abs=1e-12)


def test_rates_at_targets_equal_scikit_learn(measured):
    vectors, labels, found = measured
    false, true, thresholds = roc_curve(*all_pairs(vectors, labels), drop_intermediate=False)
    for at in found["at"][:3]:
        best = true[false <= at["target"]].max()
        assert at["true_accept"] == pytest.approx(best)
        assert at["false_accept"] <= at["target"]
        assert at["interval"][0] <= at["true_accept"] <= at["interval"][1]
        lowest = thresholds[false <= at["target"]].min()
        assert lowest - 0.02 < at["threshold"] <= lowest + 1e-9
    equal = np.argmin(np.abs(1 - true - false))
    assert found["equal_error"]["rate"] == pytest.approx((1 - true[equal] + false[equal]) / 2, abs=1e-3)
    curve = found["roc"]
    assert np.all(np.diff(curve["false_accept"]) >= 0)
    assert np.all(np.diff(curve["threshold"]) < 0)
    for threshold, rate in zip(curve["threshold"], curve["false_accept"], strict=True):
        truth, scores = all_pairs(vectors, labels)
        assert rate == pytest.approx((scores[~truth] >= threshold - 1e-9).mean())


def test_a_rate_that_too_few_pairs_decide_has_a_reason(measured):
    (last,) = [at for at in measured[2]["at"] if at["target"] == 1e-4]
    assert last["reason"].startswith("only 20,")
    assert "threshold" not in last


def test_no_interval_is_as_narrow_as_if_pairs_were_independent():
    table = space(rows=300, classes=8)
    found = verification(pair_statistics(*table), *table, resamples=300)
    at = found["at"][1]
    naive = 1.96 * np.sqrt(at["true_accept"] * (1 - at["true_accept"]) / found["pairs"]["same_class"])
    assert at["interval"][1] - at["interval"][0] > 4 * naive


def test_the_seed_determines_the_intervals(measured):
    table = space()
    assert verification(pair_statistics(*table), *table, resamples=200, seed=3) == measured[2]
    assert verification(pair_statistics(*table), *table, resamples=200, seed=4) != measured[2]


def test_none_without_pairs_of_both_kinds():
    vectors, _, roles = space(rows=10)
    assert verification(pair_statistics(vectors, np.zeros(10), roles), vectors, np.zeros(10), roles) is None
