"""Batches hang on (seed, step) alone; what the augmentations do to a drawing that can be followed by eye."""

import keras
import numpy as np
import pytest

from anchorage.data.batches import AUGMENTATIONS, create_augmentation, evaluation_batches, training_batches
from anchorage.data.sampling import ClassBatches
from anchorage.data.store import Record, RecordSpec, RecordStore, write_store
from anchorage.errors import UsageError

SIZE = 16
ALL = {"flip": True, "shift": 0.2, "zoom": 0.2, "rotation": 20.0, "brightness": 0.2, "contrast": 0.2, "erase": 0.5}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 256, (40, SIZE, SIZE, 3), dtype="uint8")
    records = (Record(f"{n:02d}", f"class-{n % 8}", "both", image) for n, image in enumerate(images))
    folder = tmp_path_factory.mktemp("store")
    write_store(folder, records, RecordSpec(SIZE))
    return RecordStore(folder)


@pytest.fixture
def sampler(store):
    return ClassBatches(store.labels, classes=4, per_class=2, seed=1)


def drawn(store, sampler, first_step, steps, values, seed=0):
    batches = training_batches(store, sampler, first_step, steps, create_augmentation(values), seed)
    return [tuple(np.asarray(part) for part in batch) for batch in batches]


def test_without_augmentation_the_rows_of_the_sampler(store, sampler):
    for step, (images, labels) in enumerate(drawn(store, sampler, 3, 4, {}), start=3):
        np.testing.assert_array_equal(images, store.read(sampler.batch(step)))
        np.testing.assert_array_equal(labels, store.labels[sampler.batch(step)])
        assert (images.dtype, labels.dtype) == ("uint8", "int32")


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_later_start_repeats_the_same_steps(store, sampler, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        whole, rest = drawn(store, sampler, 0, 6, ALL), drawn(store, sampler, 4, 2, ALL)
    finally:
        keras.config.set_dtype_policy(before)
    for (images, _), (again, _) in zip(whole[4:], rest, strict=True):
        np.testing.assert_array_equal(images, again)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_seed_and_step_each_change_the_picture(store, name):
    class Same:
        batch_size, steps_per_round = 8, 1

        def batch(self, step):
            return np.arange(8)

    values = {name: ALL[name]}
    [(first, _), (second, _)] = drawn(store, Same(), 0, 2, values)
    [(other, _)] = drawn(store, Same(), 0, 1, values, seed=1)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert (first != store.read(np.arange(8))).any()


def point_store(folder, position):
    """One white point on black, so that it can be found again."""
    image = np.zeros((SIZE, SIZE, 3), "uint8")
    image[position] = 255
    write_store(folder, (Record(f"{n}", "a", "both", image) for n in range(64)), RecordSpec(SIZE))
    return RecordStore(folder)


class All64:
    batch_size, steps_per_round = 64, 1

    def batch(self, step):
        return np.arange(64)


def centres(images):
    weights = images[..., 0].astype(float)
    total = weights.sum((1, 2))
    rows = (weights.sum(2) * np.arange(SIZE)).sum(1) / total
    columns = (weights.sum(1) * np.arange(SIZE)).sum(1) / total
    return rows, columns


def test_shift_stays_within_its_share_and_flip_mirrors_half(tmp_path):
    store = point_store(tmp_path, (7, 4))
    [(images, _)] = drawn(store, All64(), 0, 1, {"shift": 0.25})
    rows, columns = centres(images)
    assert np.abs(rows - 7).max() <= 4.01
    assert np.abs(columns - 4).max() <= 4.01
    assert np.ptp(rows) > 4
    assert np.corrcoef(rows, columns)[0, 1] < 0.5  # the two directions are drawn apart
    [(images, _)] = drawn(store, All64(), 0, 1, {"flip": True})
    rows, columns = centres(images)
    assert set(columns) == {4.0, 11.0}
    assert 16 < (columns == 11).sum() < 48
    assert set(rows) == {7.0}


def test_rotation_is_in_degrees(tmp_path):
    store = point_store(tmp_path, (7, 13))
    [(images, _)] = drawn(store, All64(), 0, 1, {"rotation": 30.0})
    rows, columns = centres(images)
    angles = np.degrees(np.arctan2(7.5 - rows, columns - 7.5))
    start = np.degrees(np.arctan2(0.5, 5.5))
    assert np.abs(angles - start).max() < 33  # the point is a pixel wide: some degrees of blur
    assert np.ptp(angles) > 40


def test_evaluation_reads_every_row_once_in_order(store):
    batches = [np.asarray(batch) for batch in evaluation_batches(store, 16)]
    assert [len(batch) for batch in batches] == [16, 16, 8]
    np.testing.assert_array_equal(np.concatenate(batches), store.read(np.arange(40)))


def test_values_of_zero_leave_an_augmentation_out():
    assert create_augmentation({"flip": False, "shift": 0.0, "zoom": 0}) == []
    names = [type(layer).__name__ for layer in create_augmentation({"rotation": 5.0, "shift": 0.1})]
    assert names == ["RandomTranslation", "RandomRotation"]  # the table's order, not the file's


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"blur": 1}, r"E_NAME_UNKNOWN: Unknown augmentation \['blur'\]\. Known: \['flip', 'shift'"),
        ({"shift": 1.5}, r"E_AUGMENTATION: `shift` must lie between 0 and 1\. Received: shift=1\.5"),
        ({"rotation": -3}, "E_AUGMENTATION: `rotation` must lie between 0 and 180 degrees"),
    ],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(UsageError, match=message):
        create_augmentation(values)
