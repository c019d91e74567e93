"""The two-sample test: its statistic by plain loops, its false-alarm rate, and its power."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binom

from anchorage.errors import DataError
from anchorage.retrieval.drift import Observed, compare_window, observe


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class World:
    """Queries around class centers, and a gallery of the same classes."""

    def __init__(self, seed=0, classes=12, dimension=6):
        self.random = np.random.default_rng(seed)
        self.centers = unit(self.random.standard_normal((classes, dimension)))
        self.gallery = self.vectors(120)

    def vectors(self, count, noise=0.2, centers=None):
        centers = self.centers if centers is None else centers
        rows = self.random.integers(0, len(centers), count)
        return unit(centers[rows] + noise * self.random.standard_normal((count, centers.shape[1])))

    def queries(self, count, **more):
        return observe(self.vectors(count, **more), self.gallery, neighbors=5, unknown_below=0.9)


def energy(first, second):
    """The energy distance of two samples of numbers, by plain loops."""

    def mean(left, right):
        return sum(abs(x - y) for x in left for y in right) / (len(left) * len(right))

    return 2 * mean(first, second) - mean(first, first) - mean(second, second)


def test_the_p_value_is_the_share_of_splits_with_a_larger_energy_distance():
    values = np.array([0.1, 0.5, 0.6, 0.2, 0.21, 0.3, 0.35], np.float32)
    same = np.ones((7, 2), np.float32)
    seen = Observed(same, np.zeros((7, 1), np.int64), values, None)
    found = compare_window(seen.select(slice(3, 7)), seen.select(slice(0, 3)), rate=0.001)
    mine = energy(values[:3], values[3:])
    splits = [set(chosen) for chosen in combinations(range(7), 3)]
    energies = [energy([values[i] for i in split], [values[i] for i in set(range(7)) - split]) for split in splits]
    exact = np.mean([value >= mine - 1e-6 for value in energies])
    assert found.scores["embedding"] == found.scores["hubs"] == 0.0
    assert found.p_values["distance"] == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / found.rounds))


def test_an_item_with_the_embedding_of_the_query_is_not_its_neighbor():
    gallery = unit(np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]))
    seen = observe(gallery[:1], gallery, neighbors=2, unknown_below=0.7)
    assert seen.neighbors.tolist() == [[1, 2]]
    assert seen.distances == pytest.approx([0.4], abs=1e-6)
    assert seen.unknown.tolist() == [True]


def test_a_small_gallery_has_fewer_neighbors():
    seen = observe(np.eye(2, dtype=np.float32)[:1], np.eye(2, dtype=np.float32), neighbors=4)
    assert seen.neighbors.tolist() == [[1, -1, -1, -1]]
    alone = observe(np.eye(2, dtype=np.float32)[:1], np.eye(2, dtype=np.float32)[:1], neighbors=1)
    assert alone.distances.tolist() == [2.0]


def test_another_dimension_is_refused():
    with pytest.raises(DataError, match=r"E_QUERY_SHAPE.*dimension 2.*\(1, 3\)"):
        observe(np.ones((1, 3)), np.eye(2, dtype=np.float32), neighbors=1)


def test_the_false_alarm_rate_holds_for_all_tests_of_a_window_together():
    windows, rate, alarms = 120, 0.05, 0
    for number in range(windows // 8):
        world = World(seed=number)
        reference = world.queries(80)
        alarms += sum(
            bool(compare_window(reference, world.queries(40), rate=rate, seed=place).drifted) for place in range(8)
        )
    low, high = binom.interval(0.999, windows, rate)
    assert low <= alarms <= high


@pytest.mark.parametrize(
    ("change", "test"), [({"noise": 0.5}, "distance"), ({"centers": unit(np.eye(6))}, "embedding")]
)
def test_a_shift_is_found(change, test):
    world = World(seed=1)
    reference = world.queries(80)
    found = [compare_window(reference, world.queries(40, **change), rate=0.005, seed=seed) for seed in range(4)]
    assert all(test in each.drifted for each in found)
    assert all(each.p_values[test] <= 0.005 for each in found)


def test_without_a_threshold_there_is_no_test_of_unknown_queries():
    world = World(seed=2)
    reference, window = world.queries(60), replace(world.queries(30), unknown=None)
    assert set(compare_window(reference, window, rate=0.1).scores) == {"distance", "embedding", "hubs"}


def test_the_same_seed_gives_the_same_result():
    world = World(seed=3)
    reference, window = world.queries(60), world.queries(30)
    assert compare_window(reference, window, rate=0.1) == compare_window(reference, window, rate=0.1)
