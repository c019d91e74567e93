"""Batches around class representatives: who stands where, how long, and in which turn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.data.sampling.representatives import RepresentativeBatches
from anchorage.errors import UsageError

LABELS = np.repeat(np.arange(9), [1, 5, 2, 3, 4, 2, 6, 1, 2])


@given(
    st.sampled_from(["none", "hard_class"]),
    st.integers(2, 9),
    st.integers(2, 5),
    st.integers(0, 100),
    st.integers(0, 2**31),
)
def test_representatives_come_first_and_the_others_in_turn(mining, classes, per_class, step, seed):
    sampler = RepresentativeBatches(LABELS, classes, per_class, seed, lifetime=7, mining=mining)
    sampler.update(np.random.default_rng(seed).normal(size=(9, 3)))
    rows = sampler.batch(step)
    assert (len(rows), rows.dtype) == (sampler.batch_size, np.int64)
    by_place = LABELS[rows].reshape(per_class, classes)
    assert (by_place == by_place[0]).all()
    assert len(set(by_place[0].tolist())) == classes


def test_a_class_keeps_its_representative_for_a_lifetime():
    sampler = RepresentativeBatches(LABELS, classes=3, per_class=2, seed=4, lifetime=6)  # two rounds
    held = []
    for projection in range(12):
        found = {}
        for step in range(6 * projection, 6 * projection + 6):
            for row in sampler.batch(step)[:3].tolist():
                assert found.setdefault(LABELS[row], row) == row
        assert found == {LABELS[row]: row for row in sampler.probes(6 * projection).tolist()}
        held.append(found)
    for label, count in enumerate(np.bincount(LABELS).tolist()):
        rows = [found[label] for found in held]
        for start in range(0, 12 - count + 1, count):  # none twice before the class is used up
            assert len(set(rows[start : start + count])) == count


def test_every_class_comes_up_before_one_is_repeated():
    sampler = RepresentativeBatches(LABELS, classes=3, per_class=3, seed=0)
    assert sampler.steps_per_round == 3
    for number in range(3):
        rows = np.concatenate([sampler.batch(3 * number + step)[:3] for step in range(3)])
        assert sorted(LABELS[rows].tolist()) == list(range(9))


def test_seeds_bring_the_class_whose_representative_is_nearest():
    # Twin classes 2c and 2c + 1 lie together, of any length, each pair in a direction of its own.
    labels = np.repeat(np.arange(8), 3)
    sampler = RepresentativeBatches(labels, classes=4, per_class=2, seed=0, mining="hard_class")
    assert sampler.refreshes
    assert len(sampler.probes(0)) == 8
    sampler.update(np.arange(1, 9)[:, None] * np.repeat(np.eye(4), 2, axis=0))
    with_twin = 0
    for step in range(12):
        chosen = set(labels[sampler.batch(step)].tolist())
        assert len(chosen) == 4
        with_twin += sum(label ^ 1 in chosen for label in chosen) == 4
    assert with_twin > 6  # but where the two seeds are twins themselves
    odd = RepresentativeBatches(labels, classes=5, per_class=2, seed=0, mining="hard_class")
    odd.update(np.random.default_rng(0).normal(size=(8, 2)))
    assert odd.steps_per_round == 3  # three seeds a batch
    assert len(set(labels[odd.batch(0)].tolist())) == 5


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"classes": 10}, "Expected at least 10 different classes for a batch. Received: 9"),
        ({"per_class": 1}, "`per_class` must be at least 2. Received: per_class=1"),
        ({"lifetime": 0}, "`lifetime` must be at least 1"),
        ({"classes": 1, "mining": "hard_class"}, "`classes` must be at least 2"),
        ({"mining": "semi"}, r"`mining` must be one of \['none', 'hard_class'\]. Received: mining='semi'"),
    ],
)
def test_wrong_settings_are_named(params, text):
    with pytest.raises(UsageError, match=text):
        RepresentativeBatches(LABELS, **{"classes": 3, "per_class": 2, "seed": 0, **params})
