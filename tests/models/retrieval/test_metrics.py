"""Retrieval metrics against hand-worked numbers, published cases, plain loops and scikit-learn."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score
from spaces import clustered, measure, spread

from anchorage.errors import DataError, UsageError
from anchorage.retrieval.metrics import DEFAULT_METRICS, METRICS, describe_metric, evaluate_retrieval

ALL = ("recall@1", "recall@3", "precision@1", "precision@4", "map@r", "r_precision", "map", "mrr", "ndcg@1", "ndcg@5")
ORACLES = Path(__file__).parents[2] / "data" / "oracles"
sys.path.append(str(Path(__file__).parents[2] / "oracles"))


def reference(vectors, labels, roles, names):
    """Plain loops: for each query the mean of the metric over every order of the tied items."""
    values = {name: [] for name in names}
    for i, label in enumerate(labels):
        items = [j for j in range(len(labels)) if roles[j] != "query" and j != i]
        if roles[i] == "gallery" or not any(labels[j] == label for j in items):
            continue
        products = {j: np.float32(np.dot(vectors[i].astype("float64"), vectors[j].astype("float64"))) for j in items}
        groups = [[j for j in items if products[j] == s] for s in sorted(set(products.values()), reverse=True)]
        shuffles = itertools.product(*map(itertools.permutations, groups))
        orders = [list(itertools.chain.from_iterable(shuffle)) for shuffle in shuffles]
        for name in names:
            values[name].append(np.mean([measure([labels[j] == label for j in order], name) for order in orders]))
    return values


def test_hand_worked_space():
    # Seen from 0 degrees (class a): b, a, b, a. R = 2, hits at ranks 2 and 4.
    vectors = spread([0, 10, 25, 45, 70])
    names = [name for name in ALL if name != "ndcg@5"]
    result = evaluate_retrieval(vectors, list("ababa"), ["query"] + ["gallery"] * 4, names)
    expected = {
        "recall@1": 0,
        "recall@3": 1,
        "precision@1": 0,
        "precision@4": 1 / 2,
        "r_precision": 1 / 2,
        "map@r": (1 / 2) / 2,  # precision 1/2 at rank 2; rank 4 is beyond R
        "map": (1 / 2 + 2 / 4) / 2,
        "mrr": 1 / 2,
        "ndcg@1": 0,
    }
    assert result.values == pytest.approx(expected)


def test_hand_worked_ndcg():
    result = evaluate_retrieval(spread([0, 10, 25, 45, 70]), list("ababa"), ["query"] + ["gallery"] * 4, ["ndcg@4"])
    found, best = 1 / np.log2(3) + 1 / np.log2(5), 1 / np.log2(2) + 1 / np.log2(3)
    assert result.values["ndcg@4"] == pytest.approx(found / best)


@pytest.mark.parametrize(
    ("similarities", "relevance", "expected"),
    [  # published with method 13: nDCG at 1, 2, 3 and 5
        ([0.9, 0.8, 0.7, 0.6, 0.5], [0, 1, 1, 0, 1], [0.0, 0.38685280723, 0.53072127398, 0.71226306651]),
        ([0.1, 0.9, 0.3, 0.8, 0.2], [1, 0, 1, 0, 0], [0.0, 0.0, 0.30657359638, 0.54377130915]),
    ],
)
def test_published_ndcg_cases(similarities, relevance, expected):
    vectors = np.vstack([similarities, np.eye(5)])  # the product with the j-th gallery row is the j-th similarity
    names = ["ndcg@1", "ndcg@2", "ndcg@3", "ndcg@5"]
    result = evaluate_retrieval(vectors, [1, *relevance], ["query"] + ["gallery"] * 5, names)
    assert list(result.values.values()) == pytest.approx(expected)


@given(st.integers(6, 9), st.integers(1, 3), st.booleans(), st.integers(0, 2**16))
def test_equals_plain_loops_over_every_order_of_ties(rows, classes, tied, seed):
    rng = np.random.default_rng(seed)
    vectors = spread(rng.choice([0, 40, 80, 120], rows) if tied else rng.uniform(0, 360, rows))
    labels = rng.integers(0, classes, rows)
    roles = np.array(["gallery"] * 4 + ["both"] + list(rng.choice(["query", "gallery", "both"], rows - 5)))
    names = [name for name in ALL if name != "ndcg@5"] + ["ndcg@4"]
    expected = reference(vectors, labels, roles, names)
    if not expected["map@r"]:
        return
    result = evaluate_retrieval(vectors, labels, roles, names, block_rows=2)
    for name in names:
        np.testing.assert_allclose(result.per_query[name], expected[name], atol=1e-9, err_msg=name)
        assert result.values[name] == pytest.approx(np.mean(expected[name]))


def test_equals_plain_loops_on_a_larger_space():
    vectors, labels = clustered(np.random.default_rng(1), 300, 25)
    roles = np.full(300, "both")
    result = evaluate_retrieval(vectors, labels, roles, DEFAULT_METRICS)
    for name, expected in reference(vectors, labels, roles, DEFAULT_METRICS).items():
        np.testing.assert_allclose(result.per_query[name], expected, atol=1e-9, err_msg=name)


def test_ndcg_equals_scikit_learn():
    vectors, labels = clustered(np.random.default_rng(2), 120, 9)
    result = evaluate_retrieval(vectors, labels, metrics=["ndcg@10"])
    scores = vectors @ vectors.T
    for row, value in zip(result.query_rows, result.per_query["ndcg@10"], strict=True):
        others = np.arange(120) != row
        truth = (labels == labels[row])[others]
        assert value == pytest.approx(ndcg_score([truth], [scores[row][others]], k=10))


@pytest.mark.parametrize("kind", ["both", "roles"])
def test_equals_ranx_trec_eval_and_pytorch_metric_learning(kind):
    from retrieval_cases import space

    case, ranking = space(kind), json.loads((ORACLES / "ranking-metrics.json").read_text())[kind]
    metric_learning = json.loads((ORACLES / "metric-learning-metrics.json").read_text())[kind]
    names = [*metric_learning, *ranking["trec_eval"]]
    result = evaluate_retrieval(case["vectors"], case["labels"], case["roles"], names, parents=case["parents"])
    assert result.num_queries == ranking["queries"]
    for answers in (ranking["ranx"], ranking["trec_eval"], metric_learning):
        for name, value in answers.items():
            assert result.values[name] == pytest.approx(value, abs=1e-6 if answers is metric_learning else 1e-12), name


def test_average_precision_equals_scikit_learn():
    vectors, labels = clustered(np.random.default_rng(2), 120, 9)
    result = evaluate_retrieval(vectors, labels, metrics=["map"])
    scores = vectors @ vectors.T
    for row, value in zip(result.query_rows, result.per_query["map"], strict=True):
        others = np.arange(120) != row
        truth = (labels == labels[row])[others]
        assert value == pytest.approx(average_precision_score(truth, scores[row][others]))


def test_far_relevant_items_are_ranked_by_one_sort_as_by_single_counts(monkeypatch):
    vectors, labels = clustered(np.random.default_rng(9), 200, 3)
    vectors = np.round(vectors, 1)  # ties
    one_by_one = evaluate_retrieval(vectors, labels, metrics=["map", "mrr"])
    monkeypatch.setattr("anchorage.retrieval.ties._SORT_FROM", 1)
    sorted_ = evaluate_retrieval(vectors, labels, metrics=["map", "mrr"])
    np.testing.assert_array_equal(one_by_one.per_query["map"], sorted_.per_query["map"])
    expected = reference_in_order(vectors, labels)
    np.testing.assert_allclose(sorted_.per_query["map"], expected, atol=1e-12)


def reference_in_order(vectors, labels):
    """Expected average precision of every query, group of ties by group of ties, as the sum over places in it."""
    values = []
    products = (vectors.astype("float64") @ vectors.T.astype("float64")).astype("float32")
    for row, similarities in enumerate(products):
        others = np.arange(len(labels)) != row
        scores, truth = similarities[others], (labels == labels[row])[others]
        total = 0.0
        for score in np.unique(scores[truth]):
            a, n = (scores > score).sum(), truth[scores > score].sum()
            g, r = (scores == score).sum(), truth[scores == score].sum()
            for t in range(1, g + 1):
                total += r / g * (n + 1 + ((t - 1) * (r - 1) / (g - 1) if g > 1 else 0)) / (a + t)
        values.append(total / truth.sum())
    return np.array(values)


def test_collapsed_space_has_the_expected_rank_of_a_random_order():
    # 20 items of 5 classes: the first of 3 relevant among 19 others in random order.
    values = evaluate_retrieval(np.ones((20, 3)), np.repeat(np.arange(5), 4), metrics=["map", "mrr"]).values
    orders = list(itertools.combinations(range(1, 20), 3))
    expected = {
        "map": np.mean([(1 / a + 2 / b + 3 / c) / 3 for a, b, c in orders]),
        "mrr": np.mean([1 / order[0] for order in orders]),
    }
    assert values == pytest.approx(expected)


def test_value_does_not_change_when_more_is_retrieved():
    rng = np.random.default_rng(3)
    vectors, labels = clustered(rng, 200, 8)
    vectors = np.round(vectors, 0)  # a coarse grid: ties everywhere
    few = evaluate_retrieval(vectors, labels, metrics=["recall@1", "map@r"], keep_neighbors=1)
    many = evaluate_retrieval(vectors, labels, metrics=["recall@1", "map@r", "precision@199"], keep_neighbors=150)
    for name in few.values:
        np.testing.assert_allclose(few.per_query[name], many.per_query[name], rtol=1e-12)


def test_value_does_not_hang_on_the_order_of_tied_rows():
    rng = np.random.default_rng(4)
    vectors, labels = clustered(rng, 200, 8)
    vectors, order = np.sign(vectors), rng.permutation(200)
    straight, shuffled = (evaluate_retrieval(vectors[o], labels[o]).values for o in (np.arange(200), order))
    assert straight == pytest.approx(shuffled, abs=1e-12)


def test_collapsed_space_scores_like_chance():
    labels = np.repeat(np.arange(5), 4)
    values = evaluate_retrieval(np.ones((20, 3)), labels, metrics=["recall@1", "r_precision"]).values
    assert values == pytest.approx({"recall@1": 3 / 19, "r_precision": 3 / 19})


def test_roles_split_queries_from_gallery():
    vectors = spread([0, 1, 10, 90])
    labels, roles = ["a", "b", "a", "b"], ["query", "query", "gallery", "gallery"]
    result = evaluate_retrieval(vectors, labels, roles, ["recall@1"])
    assert result.query_rows.tolist() == [0, 1]
    assert result.neighbor_rows.tolist() == [[2, 3], [2, 3]]
    assert result.values == {"recall@1": 0.5}
    assert result.num_gallery == 2


def test_a_copy_of_the_query_is_not_taken_for_the_query():
    vectors = spread([30, 30, 200])
    result = evaluate_retrieval(vectors, [0, 0, 0], metrics=["recall@1"])
    assert result.neighbor_rows[:2, 0].tolist() == [1, 0]
    assert result.neighbor_similarities[:2, 0] == pytest.approx([1, 1])


def test_queries_without_a_relevant_item_are_left_out_and_counted():
    result = evaluate_retrieval(spread([0, 5, 50, 100]), ["a", "a", "alone", "b"], ["both"] * 3 + ["query"], ["map@r"])
    assert (result.num_queries, result.num_skipped) == (2, 2)
    assert result.skipped_rows.tolist() == [2, 3]
    assert result.values == {"map@r": 1.0}


def test_values_are_averaged_per_class():
    result = evaluate_retrieval(spread([0, 5, 100, 10, 108]), list("aabba"), metrics=["recall@1", "map@r"])
    table = result.per_class
    assert table["label"].tolist() == ["a", "b"]
    assert table["queries"].tolist() == [3, 2]
    assert table["gallery"].tolist() == [3, 2]
    # Nearest of a at 0: 5 (a). a at 5: 0 and 10 tie at 5 degrees, unless float32 tells them apart. a at 108: 100 (b).
    assert table["recall@1"][1] == 0.0
    assert table["recall@1"][0] == pytest.approx(result.per_query["recall@1"][[0, 1, 4]].mean())


def test_nothing_relevant_anywhere():
    with pytest.raises(DataError, match=r"E_NO_RELEVANT: .* Received: 3 queries, 3 gallery items, none relevant"):
        evaluate_retrieval(spread([0, 1, 2]), [0, 1, 2])


@pytest.mark.parametrize(
    "name", ["recall", "recall@", "recall@0", "recall@k", "Recall@1", "map@5", "auprc", "ndcg@-1", "recall@99999999999"]
)
def test_unknown_metric_lists_the_known(name):
    with pytest.raises(UsageError, match=r"E_METRIC_UNKNOWN: .*recall@k, precision@k, ndcg@k, graded_ndcg@k, map"):
        evaluate_retrieval(spread([0, 1, 2]), [0, 0, 0], metrics=[name])


@pytest.mark.parametrize("name", ["recall@3", "precision@3", "ndcg@3"])
def test_k_beyond_the_gallery(name):
    with pytest.raises(UsageError, match=rf"E_TOO_FEW_NEIGHBORS: Expected at least 3 .* for {name}\. Received: 2"):
        evaluate_retrieval(spread([0, 1, 2]), [0, 0, 0], metrics=[name])


def test_rejects_an_unknown_role():
    with pytest.raises(DataError, match=r"E_ROLE: .* query, gallery, both. Received: 'probe'"):
        evaluate_retrieval(spread([0, 1]), [0, 0], ["both", "probe"], ["recall@1"])


def test_lengths_must_agree():
    with pytest.raises(DataError, match="E_VECTOR_SHAPE"):
        evaluate_retrieval(spread([0, 1, 2]), [0, 0], metrics=["recall@1"])


def test_vectors_with_nan_are_refused():
    with pytest.raises(DataError, match="E_VECTOR_NOT_FINITE"):
        evaluate_retrieval(np.array([[1.0, np.nan], [1, 0], [0, 1]]), [0, 0, 0], metrics=["recall@1"])


def test_every_metric_is_described():
    for key in METRICS:
        text = describe_metric(key.replace("@k", "@7"))
        assert "the 7 nearest" in text or "R = relevant items" in text, text
