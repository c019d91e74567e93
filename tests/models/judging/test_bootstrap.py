import numpy as np
import pytest

from anchorage.judging.bootstrap import compare_by_classes, holm


def compare(candidate, baseline, labels, masks=None, resamples=4000, seed=0):
    everything = np.ones(len(labels), bool)
    pair = np.array(candidate, float), np.array(baseline, float)
    masks = {"all": everything, **(masks or {})}
    return compare_by_classes(dict.fromkeys(masks, pair), np.array(labels), masks, resamples=resamples, seed=seed)


def test_two_classes_by_hand():
    # +0.1 in class a, -0.1 in class b: draws of two classes give +0.1, 0, -0.1 with chances 1/4, 1/2, 1/4
    found = compare([0.5, 0.5], [0.4, 0.6], list("ab"))
    values, counts = np.unique(found.draws[:, 0].round(6), return_counts=True)
    assert values.tolist() == [-0.1, 0, 0.1]
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    assert found.difference(0) == pytest.approx(0)
    assert found.interval(0, 0.95) == pytest.approx((-0.1, 0.1))
    assert found.p_worse(0, 0.0) == pytest.approx(0.75, abs=0.03)
    assert found.p_worse(0, 0.1) == pytest.approx(1.0)
    assert found.lower_bound(0, 0.9) == pytest.approx(-0.1)


def test_large_classes_weigh_as_many_queries():
    # class a: three queries better by 0.2, class b: one worse by 0.2; drawn twice each: +0.2, -0.2; mixed: +0.1
    found = compare([0.7, 0.7, 0.7, 0.1], [0.5, 0.5, 0.5, 0.3], list("aaab"))
    assert found.difference(0) == pytest.approx(0.1)
    assert set(found.draws[:, 0].round(6)) == {-0.2, 0.1, 0.2}


def test_equal_models_differ_by_exactly_nothing():
    values = np.random.default_rng(0).random(50)
    found = compare(values, values, np.arange(50) % 7)
    assert not found.draws.any()
    assert found.p_worse(0, 0.0) == 1


def test_masks_share_the_draws_and_may_be_missed_by_one():
    mask = np.array([True, False, False])
    found = compare([1, 0, 0], [0, 0, 0], list("abc"), {"part": mask})
    assert found.queries.tolist() == [3, 1]
    assert found.classes.tolist() == [3, 1]
    missed = np.isnan(found.draws[:, 1])
    assert missed.mean() == pytest.approx((2 / 3) ** 3, abs=0.03)
    assert np.array_equal(missed, found.draws[:, 0] == 0)
    assert set(found.draws[~missed, 1]) == {1.0}


def test_images_of_a_class_rise_and_fall_together():
    # 40 classes of 25 images that all change alike: resampling images would give an interval five times narrower
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(40), 25)
    change = rng.normal(0, 0.1, 40)[labels]
    low, high = compare(change, np.zeros(1000), labels).interval(0, 0.95)
    assert high - low == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(40), rel=0.3)
    by_image = compare(change, np.zeros(1000), np.arange(1000)).interval(0, 0.95)
    assert high - low > 3 * (by_image[1] - by_image[0])


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng, hits = np.random.default_rng(2), 0
    for number in range(100):
        labels = np.repeat(np.arange(40), rng.integers(1, 8, 40))
        change = 0.02 + rng.normal(0, 0.1, 40)[labels] + rng.normal(0, 0.1, len(labels))
        low, high = compare(change, np.zeros(len(labels)), labels, resamples=300, seed=number).interval(0, 0.9)
        hits += low <= 0.02 <= high
    assert 78 <= hits <= 98


def test_the_seed_determines_the_resamples():
    arguments = np.arange(20) / 20, np.zeros(20), np.arange(20) % 5
    assert np.array_equal(compare(*arguments, seed=3).draws, compare(*arguments, seed=3).draws)
    assert not np.array_equal(compare(*arguments, seed=3).draws, compare(*arguments, seed=4).draws)


def test_holm_by_hand():
    # 4 x 0.01, 3 x 0.02, 2 x 0.03 raised to the one before it, 1 x 0.2
    assert holm([0.2, 0.01, 0.03, 0.02]) == pytest.approx([0.2, 0.04, 0.06, 0.06])
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, 1 x 0.04 raised to the one before it
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
