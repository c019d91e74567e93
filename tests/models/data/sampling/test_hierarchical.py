"""Groups of near classes: the paper's class distance, who is whose neighbour, and that all classes get their turn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.data.sampling.centred import add_neighbors, nearest_classes
from anchorage.data.sampling.hierarchical import HierarchicalBatches
from anchorage.errors import DataError, UsageError

LABELS = np.repeat(np.arange(9), [1, 5, 2, 3, 4, 2, 6, 1, 2])


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@given(st.integers(2, 12), st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**31))
def test_neighbours_go_by_the_mean_squared_distance_of_items(classes, per_class, block, seed):
    rows = unit(np.random.default_rng(seed).normal(size=(classes, per_class, 5)))
    distances = np.square(rows[:, None, :, None] - rows[None, :, None, :]).sum(-1).mean((2, 3))
    np.fill_diagonal(distances, np.inf)
    expected = np.argsort(distances, axis=1)[:, : classes - 1]
    assert nearest_classes(rows.mean(axis=1), classes - 1, block).tolist() == expected.tolist()
    few = nearest_classes(rows.mean(axis=1), 1, block)
    assert few.tolist() == expected[:, :1].tolist()


def test_a_seed_gets_its_next_nearest_where_the_nearest_is_taken():
    neighbors = np.array([[1, 2, 3, 4], [0, 2, 3, 4], [1, 0, 3, 4], [4, 0, 1, 2], [3, 0, 1, 2]])
    assert add_neighbors(np.array([0, 3]), neighbors, 4).tolist() == [0, 1, 3, 4]
    assert add_neighbors(np.array([0, 2]), neighbors, 5).tolist() == [0, 1, 3, 2, 4]
    assert add_neighbors(np.array([0, 1]), neighbors, 4).tolist() == [0, 2, 1, 3]
    assert add_neighbors(np.array([3, 0, 1]), neighbors, 4).tolist() == [3, 4, 0, 1]  # one more for the first seed


@given(st.integers(1, 4), st.integers(2, 3), st.integers(1, 4), st.integers(0, 50), st.integers(0, 2**31))
def test_every_batch_has_its_classes_and_items(groups, near, per_class, step, seed):
    if groups * near > 9:
        near = 2
    for refreshed in (False, True):
        sampler = HierarchicalBatches(LABELS, groups, near, per_class, seed)
        if refreshed:
            sampler.update(np.random.default_rng(seed).normal(size=(18, 3)))
        rows = sampler.batch(step)
        assert (len(rows), rows.dtype) == (sampler.batch_size, np.int64)
        by_class = LABELS[rows].reshape(groups * near, per_class)
        assert (by_class == by_class[:, :1]).all()
        assert len(set(by_class[:, 0].tolist())) == groups * near
        for label, own in zip(by_class[:, 0], rows.reshape(-1, per_class), strict=True):
            assert len(set(own.tolist())) == min(per_class, np.sum(label == LABELS))


def test_batches_are_made_of_crowds_and_every_class_is_a_seed():
    # Four crowds of three classes; lengths do not count.
    labels = np.repeat(np.arange(12), 2)
    sampler = HierarchicalBatches(labels, groups=2, classes_per_group=3, per_class=2, seed=0)
    directions = np.repeat(np.eye(4), 3, axis=0) + 0.01 * np.random.default_rng(0).normal(size=(12, 4))
    sampler.update(np.repeat(directions * np.arange(1, 13)[:, None], 2, axis=0))
    assert sampler.steps_per_round == 6
    seeds = []
    for step in range(6):
        chosen = labels[sampler.batch(step)].reshape(6, 2)[:, 0]
        seeds += [chosen[0], chosen[3]]
        crowds = np.bincount(chosen // 3, minlength=4)
        if chosen[0] // 3 != chosen[3] // 3:
            assert sorted(crowds) == [0, 0, 3, 3]
    assert sorted(seeds) == list(range(12))


def test_embeddings_that_are_not_finite_are_refused():
    sampler = HierarchicalBatches(LABELS, 2, 2, 2, seed=0)
    with pytest.raises(DataError, match="E_LOSS_NOT_FINITE"):
        sampler.update(np.full((18, 3), np.nan))


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"groups": 5}, "Expected at least 10 different classes for a batch. Received: 9"),
        ({"classes_per_group": 1}, "`classes_per_group` must be at least 2"),
        ({"per_class": 0}, "`per_class` must be at least 1"),
        ({"probes_per_class": 0}, "`probes_per_class` must be at least 1"),
    ],
)
def test_wrong_settings_are_named(params, text):
    with pytest.raises(UsageError, match=text):
        HierarchicalBatches(LABELS, **{"groups": 2, "classes_per_group": 2, "per_class": 2, "seed": 0, **params})
