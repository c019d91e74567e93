import numpy as np
import pytest

from anchorage.errors import UsageError
from anchorage.judging.slices import make_slices

LABELS = np.array(list("aabbccdd"), object)
SIZES = {"a": 2, "b": 2, "c": 5, "d": 9}
NOTHING = np.zeros(8), np.zeros(8)


def named(masks):
    return {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()}


def test_by_column_and_label():
    family = np.array(["lucide", "", "lucide", "fluent"] * 2, object)
    found = named(make_slices(["family", "label"], LABELS, SIZES, NOTHING, {"family": family}))
    assert found["family=lucide"] == [0, 2, 4, 6]
    assert found["family=fluent"] == [3, 7]
    assert "family=" not in found
    assert found["label=d"] == [6, 7]


def test_only_the_most_frequent_values_get_a_slice():
    values = np.array([f"v{min(n, 24)}" for n in range(60)], object)
    found = make_slices(["camera"], np.arange(60), {}, (np.zeros(60), np.zeros(60)), {"camera": values})
    assert len(found) == 20
    assert found["camera=v24"].sum() == 36


def test_by_class_size_in_thirds():
    found = named(make_slices(["class_size"], LABELS, SIZES, NOTHING, {}))
    assert found == {"class_size=2": [0, 1, 2, 3], "class_size=5": [4, 5], "class_size=9": [6, 7]}
    assert named(make_slices(["class_size"], LABELS, dict.fromkeys("abcd", 4), NOTHING, {})) == {
        "class_size=4": [*range(8)]
    }


def test_most_confused_by_the_mean_of_both_models():
    labels = np.repeat(np.arange(60), 2)
    candidate, baseline = np.ones(120), np.ones(120)
    candidate[labels == 7], baseline[labels == 8] = 0.0, 0.2  # worst and second worst, by one model each
    low = [10, 11, 12, 13]
    candidate[np.isin(labels, low)] = 0.5
    found = make_slices(["confused"], labels, {}, (candidate, baseline), {})["confused"]
    assert np.unique(labels[found]).tolist() == [7, 8, *low]


def test_unknown_slice_lists_the_known():
    with pytest.raises(UsageError, match=r"E_SLICE: .* class_size, confused, label, family. Received: camera"):
        make_slices(["camera"], LABELS, SIZES, NOTHING, {"family": LABELS})
