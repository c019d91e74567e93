"""How classes vary: the published cases of statistics and correction, and what must hold for any numbers."""

import numpy as np
import pytest

from anchorage.methods._class_statistics import ClassStatistics, class_statistics, correct_variances, merge_statistics

FILE = "04-iaa"
SETTINGS = {"neighbors": 2, "beta": 0.1, "gamma": 0.1, "tau": 40, "sigma_m": 1.0, "sigma_cv": 1.0}


def correct(statistics, **changes):
    return correct_variances(statistics, **{**SETTINGS, "distance_norm": "minmax", **changes})


def draw(seed=0, rows=60, classes=7, dim=3):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes - 1, rows)
    labels[0] = classes - 1  # a class with one item
    return random.normal(size=(rows, dim)) * random.uniform(0.2, 2, (classes, dim))[labels], labels


def test_statistics_as_published(case):
    case = case(FILE, "class_stats")
    found = class_statistics(np.array(case["inputs"]["embeddings"]), np.array(case["inputs"]["labels"]), 4)
    for ours, key in zip(found, ("mean", "var", "count"), strict=True):
        np.testing.assert_allclose(ours, case["expected"][key], atol=1e-15)


@pytest.mark.parametrize("momentum", [0.2, 0.8])
def test_running_statistics_as_published(case, momentum):
    case = case(FILE, f"running_merge_momentum_{momentum}")
    inputs = {key: np.array(value) for key, value in case["inputs"].items()}
    before = ClassStatistics(inputs["prev_mean"], inputs["prev_var"], inputs["prev_count"])
    merged = merge_statistics(before, class_statistics(inputs["embeddings"], inputs["labels"], 4), momentum)
    for ours, key in zip(merged, ("mean", "var", "count"), strict=True):
        np.testing.assert_allclose(ours, case["expected"][key], atol=1e-14)


@pytest.mark.parametrize("norm", ["minmax", "none"])
def test_correction_as_published(case, norm):
    case = case(FILE, f"neighbor_correction_{norm}")
    found = correct(
        ClassStatistics(*(np.array(case["inputs"][key]) for key in ("mean", "var", "count"))), distance_norm=norm
    )
    expected = case["expected"]
    np.testing.assert_allclose(found.share, expected["alpha"], rtol=1e-12)
    np.testing.assert_array_equal(found.neighbors, expected["neighbors"])
    np.testing.assert_allclose(found.of_all, expected["global_var"], rtol=1e-12)
    np.testing.assert_allclose(found.of_neighbors, expected["neighbor_var"], rtol=1e-10)
    np.testing.assert_allclose(found.variance, expected["corrected_var"], rtol=1e-10)


def test_share_falls_with_the_number_of_items():
    count = np.array([1, 2, 5, 10, 40, 41, 0])
    statistics = ClassStatistics(np.zeros((7, 1)), np.ones((7, 1)), count)
    share = correct(statistics).share
    np.testing.assert_allclose(share[:6], [1, 0.912984, 0.748239, 0.609068, 0.386214, 0], atol=1e-6)
    assert share[6] == 0  # nothing to correct


def test_merging_batches_with_full_memory_gives_the_pooled_statistics():
    embeddings, labels = draw()
    pooled = class_statistics(embeddings, labels, 8)
    running = ClassStatistics(np.zeros((8, 3)), np.zeros((8, 3)), np.zeros(8))
    for part in np.array_split(np.random.default_rng(1).permutation(60), 9):
        running = merge_statistics(running, class_statistics(embeddings[part], labels[part], 8), momentum=1.0)
    for ours, theirs in zip(running, pooled, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)
    order = np.random.default_rng(2).permutation(60)
    for ours, theirs in zip(class_statistics(embeddings[order], labels[order], 8), pooled, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_moving_a_class_moves_its_mean_alone():
    embeddings, labels = draw()
    before = class_statistics(embeddings, labels, 7)
    after = class_statistics(embeddings + np.where(labels == 2, 5.0, 0.0)[:, None], labels, 7)
    np.testing.assert_allclose(after.variance, before.variance, atol=1e-12)
    np.testing.assert_allclose(after.mean[2], before.mean[2] + 5.0)


@pytest.mark.parametrize("norm", ["minmax", "none"])
def test_corrections_are_mixtures_of_what_classes_have(norm):
    statistics = class_statistics(*draw(), 9)  # one class with one item, two without
    found = correct(statistics, neighbors=3, distance_norm=norm, sigma_m=1e-3, sigma_cv=1e-3)
    known = statistics.variance[statistics.items_seen >= 2]
    low, high = known.min(axis=0) - 1e-12, known.max(axis=0) + 1e-12
    filled = statistics.items_seen > 0
    for values in (found.of_neighbors, found.variance[filled], found.of_all):
        assert (values >= low).all()
        assert (values <= high).all()
    assert not found.variance[~filled].any()


def test_the_ends_of_the_parameters():
    statistics = class_statistics(*draw(), 7)
    np.testing.assert_array_equal(correct(statistics, tau=0).variance, statistics.variance)
    everyone = correct(statistics, gamma=1.0)
    trusted = everyone.share[:, None]
    np.testing.assert_allclose(
        everyone.variance, (1 - trusted) * statistics.variance + trusted * everyone.of_all, atol=1e-12
    )
    known = np.flatnonzero(statistics.items_seen >= 2)
    everybody = correct(statistics, neighbors=100).neighbors
    assert sorted(everybody[6]) == sorted(known)  # the class with one item has all others
    np.testing.assert_allclose(
        correct(statistics, neighbors=100).of_neighbors, correct(statistics, neighbors=len(known)).of_neighbors
    )


def test_a_class_with_nobody_to_learn_from_stays():
    statistics = ClassStatistics(np.zeros((3, 1)), np.array([[0.5], [0.0], [0.0]]), np.array([4, 0, 1]))
    np.testing.assert_allclose(correct(statistics).variance, [[0.5], [0.0], [0.5]])
    lonely = statistics._replace(items_seen=np.array([1, 0, 1]))
    np.testing.assert_array_equal(correct(lonely).variance, lonely.variance)
