"""Parts of a store by class: the images must stay with their ids and classes."""

import numpy as np
import pytest

from anchorage.data.store import Record, RecordSpec, RecordStore, write_store
from anchorage.data.subset import ClassSubset, assign_folds
from anchorage.errors import DataError, UsageError


@pytest.fixture
def store(tmp_path):
    """Two images of each of five classes, arriving in no order; every pixel is the number of the image."""
    labels = ["d", "a", "e", "b", "c", "a", "c", "e", "b", "d"]
    records = [Record(f"i{n}", label, "both", np.full((2, 2, 3), n, np.uint8)) for n, label in enumerate(labels)]
    write_store(tmp_path / "store", records, RecordSpec(2))
    return RecordStore(tmp_path / "store")


def test_keeps_ids_classes_and_images_together(store):
    part = ClassSubset(store, ["e", "b"])
    assert part.class_names == ["b", "e"]
    assert part.labels.tolist() == [0, 0, 1, 1]
    assert part.ids.tolist() == ["i3", "i8", "i2", "i7"]
    assert part.roles.tolist() == ["both"] * 4
    assert len(part) == 4
    assert part.spec == RecordSpec(2, "crop")
    assert part.read([3, 0])[:, 0, 0, 0].tolist() == [7, 3]


def test_all_classes_are_the_whole(store):
    part = ClassSubset(store, store.class_names)
    assert part.ids.tolist() == store.ids.tolist()
    assert part.labels.tolist() == store.labels.tolist()


def test_unknown_class(store):
    with pytest.raises(DataError, match="E_CLASS_UNKNOWN"):
        ClassSubset(store, ["a", "z"])


def test_folds_part_the_classes():
    names = [f"c{n}" for n in range(23)]
    folds = assign_folds(reversed(names), folds=4, seed=3)
    assert sorted(name for fold in folds for name in fold) == sorted(names)
    assert [len(fold) for fold in folds] == [6, 6, 6, 5]
    assert folds == assign_folds(names, folds=4, seed=3)
    assert folds != assign_folds(names, folds=4, seed=4)


def test_too_few_classes_for_the_folds():
    with pytest.raises(UsageError, match="E_FOLDS"):
        assign_folds(["a", "b", "c"], folds=2)
