"""Numbers of the report on tables small enough to check by eye."""

import numpy as np
import pytest
from tables import clusters, table_of

from anchorage.judging import numbers
from anchorage.judging.gate import Comparison
from anchorage.retrieval.metrics import evaluate_retrieval
from anchorage.retrieval.pairs import pair_statistics

METRICS = ("recall@1", "map@r")


def evaluate(table):
    result = evaluate_retrieval(table.vectors, table.labels, table.roles, metrics=METRICS)
    return result, pair_statistics(table.vectors, table.labels, table.roles)


@pytest.fixture
def three_classes():
    """On a circle: a at 0 and 4 degrees, b at 90 and 100, c at 10 and 96; a is always right, c never."""
    angles = np.radians([0, 4, 90, 100, 10, 96])
    return table_of(np.stack([np.cos(angles), np.sin(angles)], axis=1), list("aabbcc"))


def test_classes_with_what_they_are_taken_for(three_classes):
    result, _ = evaluate(three_classes)
    entries = numbers.class_entries(three_classes, result, Comparison(result.values))
    assert [(e["label"], e["map@r"], e["taken_for"]) for e in entries] == [
        ("b", 0.0, [["c", 2]]),
        ("c", 0.0, [["a", 1], ["b", 1]]),
        ("a", 1.0, []),
    ]
    assert [(e["queries"], e["images"], e["baseline"]) for e in entries] == [(2, 2, None)] * 3


def test_recall_curve_by_hand(three_classes):
    _, pairs = evaluate(three_classes)
    assert pairs.first_hit.tolist() == [1, 1, 2, 2, 4, 3]
    curve = numbers.recall_curve(pairs, 6)
    assert curve["k"] == [1, 2, 3, 4, 5, 6]
    assert curve["candidate"] == pytest.approx([2 / 6, 4 / 6, 5 / 6, 1, 1, 1])
    assert curve["queries"] == 6


def test_recall_curve_agrees_with_the_metrics():
    table = clusters(1.5)
    _, pairs = evaluate(table)
    curve = numbers.recall_curve(pairs, len(table))
    values = evaluate_retrieval(table.vectors, table.labels, metrics=["recall@1", "recall@2", "recall@5"]).values
    assert {
        k: share for k, share in zip(curve["k"], curve["candidate"], strict=True) if k in (1, 2, 5)
    } == pytest.approx({1: values["recall@1"], 2: values["recall@2"], 5: values["recall@5"]})


def test_similarity_bars_count_everything_once(three_classes):
    _, pairs = evaluate(three_classes)
    bars = numbers.similarity_bars(pairs)
    assert len(bars["edges"]) == len(bars["positive"]) + 1
    assert sum(bars["positive"]) == 6
    assert sum(bars["hardest_negative"]) == 6
    assert 0 <= bars["overlap"] <= 1


def test_galleries_name_queries_and_neighbours(three_classes):
    shown = numbers.galleries(three_classes, *evaluate(three_classes), each=4, seed=1)
    assert len(shown["random"]) == 4
    assert {query["label"] for query in shown["worst"]} == {"a", "b", "c"}
    assert shown["worst"][0]["map@r"] == 0
    # b at 100 and c at 96 are four degrees apart: the most confident mistake; b and c are not shown twice
    assert [query["label"] for query in shown["confident"]] == ["b", "c"]
    first = shown["confident"][0]
    assert first["id"] == "image 3"
    assert first["neighbors"][0] == {
        "id": "image 5",
        "label": "c",
        "similarity": pytest.approx(np.cos(np.radians(4))),
        "correct": False,
    }
    assert [near["correct"] for near in first["neighbors"]] == [False, True, False, False, False]
    assert numbers.galleries(three_classes, *evaluate(three_classes), each=4, seed=1) == shown


def test_baseline_on_all_images_keeps_the_candidates_numbers():
    good, bad = clusters(0.3), clusters(3.0)
    result, _ = evaluate(good)
    ours, theirs = numbers.align(good, bad)
    comparison, _, _ = numbers.compare(good, result, ours, theirs, "release 1")
    assert comparison.common == result.values
    assert comparison.baseline == evaluate_retrieval(bad.vectors, bad.labels, metrics=METRICS).values
    assert comparison.common_queries == 30
    entries = numbers.metric_entries(result, good.labels, comparison, {"map@r": 0.5}, seed=0)
    assert entries["map@r"]["difference"] == pytest.approx(entries["map@r"]["value"] - entries["map@r"]["baseline"])
    assert entries["map@r"]["minimum"] == 0.5
    assert entries["recall@1"]["minimum"] is None
    assert "never meets itself" in entries["recall@1"]["convention"]


def test_interval_of_a_metric_knows_about_classes(three_classes):
    result, _ = evaluate(three_classes)
    labels = three_classes.labels[result.query_rows]
    entry = numbers.metric_entries(result, labels, Comparison(result.values), {}, seed=0)["recall@1"]
    # a is always right, b and c never: of three classes drawn, none (8 of 27 draws) to all (1 of 27) may be a
    assert entry["value"] == pytest.approx(1 / 3)
    assert entry["interval"] == [0.0, 1.0]


def test_baseline_in_another_order_with_other_images():
    good = clusters(0.3)
    rows = np.random.default_rng(0).permutation(30)[:20]
    bad = clusters(3.0).select(rows)
    ours, theirs = numbers.align(good.select(np.arange(3, 30)), bad)
    assert set(ours.ids) == set(good.ids[3:]) & set(bad.ids)
    place = {id_: row for row, id_ in enumerate(bad.ids)}
    np.testing.assert_array_equal(theirs.vectors, bad.vectors[[place[id_] for id_ in ours.ids]])
    result, _ = evaluate(good)
    comparison, _, _ = numbers.compare(good, result, ours, theirs, "release 1")
    assert comparison.metrics == result.values
    assert comparison.common == evaluate_retrieval(ours.vectors, ours.labels, metrics=METRICS).values
    assert len(comparison.per_query["map@r"][0]) == len(comparison.query_labels) == comparison.common_queries
