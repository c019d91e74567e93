"""What is relevant to a query: grades by parents, many labels an image, and nothing of its own group."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score
from spaces import clustered, measure, spread

from anchorage.errors import DataError
from anchorage.retrieval.metrics import evaluate_retrieval


@given(st.integers(8, 40), st.integers(2, 4), st.integers(0, 2**16))
def test_graded_ndcg_of_two_levels_equals_scikit_learn(rows, classes, seed):
    rng = np.random.default_rng(seed)
    vectors, labels = clustered(rng, rows, classes)
    parents = labels % 2
    if np.bincount(labels).max() < 2:
        return
    result = evaluate_retrieval(vectors, labels, metrics=["graded_ndcg@5", "linear_graded_ndcg@5"], parents=parents)
    grades = (labels[:, None] == labels).astype(int) + (parents[:, None] == parents)
    for name, gains in (("graded_ndcg@5", 2**grades - 1), ("linear_graded_ndcg@5", grades)):
        for row, value in zip(result.query_rows, result.per_query[name], strict=True):
            others = np.arange(rows) != row
            assert value == pytest.approx(ndcg_score([gains[row][others]], [(vectors @ vectors[row])[others]], k=5))
    graded, plain = (
        evaluate_retrieval(vectors, labels, metrics=["recall@1"], parents=given) for given in (parents, None)
    )
    assert plain.values["recall@1"] == graded.values["recall@1"]  # relevant means the same class, graded or not


@given(st.integers(6, 30), st.integers(0, 2**16))
def test_many_labels_an_image(rows, seed):
    rng = np.random.default_rng(seed)
    vectors = clustered(rng, rows, 5)[0]
    matrix = (rng.random((rows, 6)) < 0.3).astype(int)
    shared = matrix @ matrix.T
    np.fill_diagonal(shared, 0)
    if not shared.any():
        return
    sets = [{int(label) for label in np.flatnonzero(row)} for row in matrix]
    names = ["graded_ndcg@4", "map", "recall@2"]
    result = evaluate_retrieval(vectors, sets, metrics=names, block_rows=5)
    as_matrix = evaluate_retrieval(vectors, matrix, metrics=names)
    assert result.values == as_matrix.values
    assert result.query_rows.tolist() == np.flatnonzero(shared.any(axis=1)).tolist()
    for at, row in enumerate(result.query_rows):
        others = np.arange(rows) != row
        scores = (vectors.astype("float64") @ vectors[row].astype("float64"))[others]
        grades = shared[row][others]
        expected = average_precision_score(grades > 0, scores)
        assert result.per_query["map"][at] == pytest.approx(expected)
        assert result.per_query["graded_ndcg@4"][at] == pytest.approx(ndcg_score([2**grades - 1], [scores], k=4))
        assert result.per_query["recall@2"][at] == (grades[np.argsort(-scores)[:2]] > 0).any()


@given(st.integers(8, 30), st.integers(0, 2**16))
def test_nothing_of_the_own_group_is_asked_for(rows, seed):
    rng = np.random.default_rng(seed)
    vectors, labels = clustered(rng, rows, 3)
    groups = rng.choice(["camera 1", "camera 2", "camera 3", ""], rows)
    hidden = (groups[:, None] == groups) & (groups != "") | np.eye(rows, dtype=bool)
    relevant = (labels[:, None] == labels) & ~hidden
    if not relevant.any() or hidden[relevant.any(axis=1)].all(axis=1).any():
        return
    names = ["map", "r_precision", "mrr", "recall@1", "graded_ndcg@1"]
    result = evaluate_retrieval(vectors, labels, metrics=names, groups=groups, parents=labels % 2, block_rows=3)
    assert result.query_rows.tolist() == np.flatnonzero(relevant.any(axis=1)).tolist()
    assert result.protocol.endswith("nor anything of its own group")
    for at, row in enumerate(result.query_rows):
        order = [
            j for j in np.argsort(-(vectors.astype("float64") @ vectors[row]), kind="stable") if not hidden[row, j]
        ]
        ordered = [bool(relevant[row, j]) for j in order]
        for name in names[:-1]:
            assert result.per_query[name][at] == pytest.approx(measure(ordered, name)), name
        best = max(int(labels[j] == labels[row]) + int(labels[j] % 2 == labels[row] % 2) for j in order)
        first = int(ordered[0]) + int(labels[order[0]] % 2 == labels[row] % 2)
        assert result.per_query["graded_ndcg@1"][at] == pytest.approx((2**first - 1) / (2**best - 1))


def test_gain_doubles_with_the_grade():
    """A query of class a under parent 0: its neighbours are of another parent, the same parent, the same class."""
    names = ["graded_ndcg@3", "linear_graded_ndcg@3"]
    roles, parents = ["query"] + ["gallery"] * 3, [0, 1, 0, 0]
    found = evaluate_retrieval(spread([0, 10, 25, 45]), list("acba"), roles, names, parents=parents).values
    second, third = 1 / np.log2(3), 1 / np.log2(4)
    assert found["graded_ndcg@3"] == pytest.approx((1 * second + 3 * third) / (3 + 1 * second))
    assert found["linear_graded_ndcg@3"] == pytest.approx((1 * second + 2 * third) / (2 + 1 * second))


def test_gain_of_tied_items_is_the_mean_of_their_gains():
    names = ["graded_ndcg@1", "linear_graded_ndcg@1"]
    roles = ["query"] + ["gallery"] * 2
    found = evaluate_retrieval(spread([0, 30, 30]), list("aca"), roles, names, parents=[0, 1, 0]).values
    assert found == pytest.approx({"graded_ndcg@1": 0.5, "linear_graded_ndcg@1": 0.5})
    found = evaluate_retrieval(spread([0, 30, 30]), list("aba"), roles, names, parents=[0, 0, 0]).values
    assert found == pytest.approx({"graded_ndcg@1": (1 + 3) / 2 / 3, "linear_graded_ndcg@1": 1.5 / 2})


def test_a_class_has_one_parent_and_a_label_matrix_only_0_and_1():
    vectors = spread([0, 10, 20])
    with pytest.raises(DataError, match=r"E_LABELS: Expected the same parent .* another parent in 1 rows"):
        evaluate_retrieval(vectors, [0, 0, 1], metrics=["map"], parents=["a", "b", "b"])
    with pytest.raises(DataError, match=r"E_LABELS: Expected a parent label for each of 3 rows. Received: 2"):
        evaluate_retrieval(vectors, [0, 0, 1], metrics=["map"], parents=["a", "a"])
    with pytest.raises(DataError, match=r"E_LABELS: Expected 0 and 1"):
        evaluate_retrieval(vectors, np.array([[2], [1], [1]]), metrics=["map"])
