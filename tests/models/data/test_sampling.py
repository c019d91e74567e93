import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.data.sampling import SAMPLERS, ClassBatches, ShuffledBatches
from anchorage.errors import UsageError

LABELS = np.array([7, 7, 7, 3, 3, 9, 5, 5, 5, 5])  # class sizes: 3 -> 2, 5 -> 4, 7 -> 3, 9 -> 1


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 200), st.integers(0, 2**31))
def test_every_batch_has_exactly_p_classes_of_k_items(classes, per_class, step, seed):
    labels = np.random.default_rng(5).integers(0, 9, 60)
    labels[:9] = np.arange(9)
    rows = ClassBatches(labels, classes, per_class, seed).batch(step)
    assert rows.shape == (classes * per_class,)
    assert rows.dtype == np.int64
    found, counts = np.unique(labels[rows], return_counts=True)
    assert len(found) == classes
    assert (counts == per_class).all()
    assert (labels[rows].reshape(classes, per_class) == labels[rows[::per_class], None]).all()


def test_items_repeat_only_in_classes_that_are_too_small():
    sampler = ClassBatches(LABELS, classes=4, per_class=3, seed=0)
    rows = sampler.batch(0)
    for label, distinct in ((7, 3), (3, 2), (9, 1), (5, 3)):
        assert len(set(rows[LABELS[rows] == label])) == distinct


def test_a_round_visits_every_class_and_the_last_batch_wraps_to_other_items():
    labels = np.repeat(np.arange(5), 4)
    sampler = ClassBatches(labels, classes=2, per_class=2, seed=3)
    assert (sampler.batch_size, sampler.steps_per_round) == (4, 3)
    rounds = [np.concatenate([sampler.batch(3 * number + step) for step in range(3)]) for number in range(2)]
    for rows in rounds:
        counts = np.bincount(labels[rows], minlength=5)
        assert sorted(counts) == [2, 2, 2, 2, 4]
        assert len(set(rows)) == 12  # the class that comes twice shows its other two items
    assert rounds[0].tolist() != rounds[1].tolist()


def test_a_batch_depends_on_seed_and_step_alone():
    ahead, back, other = (ClassBatches(LABELS, 2, 2, seed) for seed in (1, 1, 2))
    forward = [ahead.batch(step).tolist() for step in range(20)]
    assert forward == [back.batch(step).tolist() for step in reversed(range(20))][::-1]
    assert forward != [other.batch(step).tolist() for step in range(20)]


def test_over_many_rounds_every_item_comes_up_equally_often():
    labels = np.repeat(np.arange(3), 6)
    sampler = ClassBatches(labels, classes=3, per_class=2, seed=0)
    counts = np.bincount(np.concatenate([sampler.batch(step) for step in range(600)]), minlength=18)
    assert counts.sum() == 3600
    assert abs(counts - 200).max() < 60  # binomial with 600 draws at 1/3: standard deviation 11.5


def test_too_few_classes_names_both_numbers():
    with pytest.raises(UsageError, match=r"Expected at least 5 different classes for a batch. Received: 4"):
        ClassBatches(LABELS, classes=5, per_class=2, seed=0)


@pytest.mark.parametrize("name", ["classes", "per_class"])
def test_counts_must_be_positive(name):
    with pytest.raises(UsageError, match=f"`{name}` must be at least 1. Received: {name}=0"):
        ClassBatches(LABELS, **{"classes": 1, "per_class": 1, "seed": 0, name: 0})


def test_shuffled_epochs_hold_every_row():
    sampler = ShuffledBatches(LABELS, batch_size=4, seed=0)
    assert sampler.steps_per_round == 3
    rows = np.concatenate([sampler.batch(step) for step in range(3)])
    assert rows[10:].tolist() == rows[:2].tolist()
    assert sorted(rows[:10]) == list(range(10))
    assert rows.tolist() != np.concatenate([sampler.batch(step) for step in range(3, 6)]).tolist()
    assert sampler.batch(1).tolist() == rows[4:8].tolist()


def test_batch_larger_than_the_data_names_both_numbers():
    with pytest.raises(UsageError, match=r"Expected at least 11 records for a batch. Received: 10"):
        ShuffledBatches(LABELS, batch_size=11, seed=0)


def test_names_in_the_table_are_those_of_the_classes():
    assert SAMPLERS["class_batches"] is ClassBatches
    for name, cls in SAMPLERS.items():  # the name in an experiment file is that of the class
        assert "".join(part.title() for part in name.split("_")) == cls.__name__
