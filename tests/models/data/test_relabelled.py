"""Rows under other labels: which they are, hidden labels, labels in names."""

import numpy as np
import pytest

from anchorage.data.relabelled import LabelledRows, hide_labels, labels_in_names
from anchorage.errors import DataError, UsageError


def test_reads_the_rows_of_the_whole(store):
    part = LabelledRows(store, [7, 3], [1, 0], ["a", "b", "c"])
    assert part.ids.tolist() == [store.ids[7], store.ids[3]]
    assert (part.labels.tolist(), part.class_names, len(part)) == ([1, 0], ["a", "b", "c"], 2)
    np.testing.assert_array_equal(part.read([1, 0]), store.read([3, 7]))


def test_hides_a_share_of_each_class(store):
    human, pool = hide_labels(store, share=0.5, seed=4)
    assert np.bincount(human.labels).tolist() == [3] * 8
    assert sorted([*human.rows, *pool]) == list(range(48))
    np.testing.assert_array_equal(human.labels, store.labels[human.rows])
    assert np.bincount(hide_labels(store, share=0.01)[0].labels).tolist() == [2] * 8
    assert (hide_labels(store, share=0.5, seed=4)[0].rows == human.rows).all()
    assert (hide_labels(store, share=0.5, seed=5)[0].rows != human.rows).any()


def test_hides_a_class(store):
    human, pool = hide_labels(store, unlabelled_class="class-2")
    assert human.class_names == [f"class-{n}" for n in (0, 1, 3, 4, 5, 6, 7)]
    np.testing.assert_array_equal(pool, np.flatnonzero(store.labels == 2))
    assert all(store.class_names[whole] == human.class_names[label] for whole, label in _pairs(store, human))
    with pytest.raises(UsageError, match="E_CLASS_UNKNOWN"):
        hide_labels(store, unlabelled_class="class-9")
    with pytest.raises(UsageError, match="E_LABEL_SHARE"):
        hide_labels(store, share=0.0)


def _pairs(store, human):
    return zip(store.labels[human.rows].tolist(), human.labels.tolist(), strict=True)


def test_labels_are_read_from_ids_by_a_pattern(store):
    weak = labels_in_names(store, r"/([0-2])\.png")
    assert weak.class_names == ["0", "1", "2"]
    assert len(weak) == 24
    assert all(name.endswith(f"/{label}.png") for name, label in zip(weak.ids, weak.labels, strict=True))


@pytest.mark.parametrize(
    ("pattern", "error"), [("(", UsageError), ("class", UsageError), ("(a)(s)", UsageError), ("(zzz)", DataError)]
)
def test_patterns_that_make_no_labels(store, pattern, error):
    with pytest.raises(error, match="E_WEAK_LABELS"):
        labels_in_names(store, pattern)
