"""Classes taken for each other, on a circle of which every angle is known."""

import numpy as np
import pytest
from tables import table_of

from anchorage.judging.confusion import confused_pairs, confusion_matrix
from anchorage.retrieval.metrics import evaluate_retrieval


@pytest.fixture
def circle():
    def make(degrees, labels):
        angles = np.radians(degrees)
        table = table_of(np.stack([np.cos(angles), np.sin(angles)], axis=1), list(labels))
        return table, evaluate_retrieval(table.vectors, table.labels, table.roles, metrics=["recall@1"])

    return make


def test_confused_pairs_are_counted_with_examples(circle):
    # nearest: a0 -> a4, a4 -> a0, b90 -> c96, b100 -> c96, c10 -> a4, c96 -> b100
    found = confused_pairs(*circle([0, 4, 90, 100, 10, 96], "aabbcc"))
    assert [(pair["label"], pair["taken_for"], pair["queries"], pair["of"]) for pair in found] == [
        ("b", "c", 2, 2),
        ("c", "a", 1, 2),
        ("c", "b", 1, 2),
    ]
    assert [(example["query"], example["neighbor"]) for example in found[0]["examples"]] == [
        ("image 3", "image 5"),  # four degrees apart, before the pair that is six apart
        ("image 2", "image 5"),
    ]
    assert found[0]["examples"][0]["similarity"] == pytest.approx(np.cos(np.radians(4)))


def test_matrix_holds_classes_in_error_and_their_shares(circle):
    matrix = confusion_matrix(*circle([0, 4, 90, 100, 10, 96], "aabbcc"))
    assert sorted(matrix["labels"]) == ["b", "c"]  # a is never wrong
    at = {label: place for place, label in enumerate(matrix["labels"])}
    shares = np.array(matrix["shares"])
    assert shares[at["b"], at["c"]] == 1
    assert shares[at["b"], at["b"]] == 0
    assert shares[at["c"], at["b"]] == 0.5
    assert shares.sum() == 1.5  # the other query of c is nearest to a, which is not shown


def test_families_stand_together(circle):
    # a and c are mixed up at 0 degrees, b and d at 90
    matrix = confusion_matrix(*circle([0, 2, 90, 92, 1, 3, 91, 93], "aabbccdd"))
    order = matrix["labels"]
    assert {frozenset(order[:2]), frozenset(order[2:])} == {frozenset("ac"), frozenset("bd")}


def test_nothing_is_confused(circle):
    table, result = circle([0, 4, 90, 94], "aabb")
    assert confused_pairs(table, result) == []
    assert confusion_matrix(table, result) is None
