"""Match probability and "unknown" against scikit-learn, hand-worked numbers and fresh classes."""

import json
import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from anchorage.retrieval.calibration import (
    FEW_CLASSES,
    NeighborSample,
    calibrate,
    calibration_error,
    match_probability,
    sample_neighbors,
)
from anchorage.retrieval.table import Embeddings


def catalogue(val=30, test=60, train=40, each=(4, 14), seed=0, dim=24):
    """Embeddings of three splits: crowded classes of uneven size and spread, those trained on twice as tight."""
    rng = np.random.default_rng(seed)
    splits = np.repeat(["train", "val", "test"], [train, val, test])
    crowds = rng.normal(size=(20, dim))[rng.integers(0, 20, len(splits))]
    spread = rng.uniform(0.5, 1.1, len(splits)) * np.where(splits == "train", 0.5, 1)
    rows = np.repeat(np.arange(len(splits)), rng.integers(*each, len(splits)))
    vectors = (crowds + 0.8 * rng.normal(size=crowds.shape))[rows] + spread[rows, None] * rng.normal(
        size=(len(rows), dim)
    )
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")
    text = ([f"{n}.png" for n in range(len(rows))], [f"class {row:03}" for row in rows], ["both"] * len(rows))
    return Embeddings(*(np.array(part, object) for part in (*text, splits[rows].tolist())), vectors)


def of(table, split):
    return table.select(table.splits == split)


@pytest.fixture(scope="module")
def table():
    return catalogue()


@pytest.fixture(scope="module")
def shown(table):
    return sample_neighbors(of(table, "val"), table)


@pytest.fixture(scope="module")
def calibration(shown):
    return calibrate(shown, split="val", seed=1)


def test_hand_worked_bins():
    probabilities = np.array([0.05, 0.95, 0.95, 1.0])
    error, bins = calibration_error(probabilities, np.array([0.0, 1.0, 0.0, 1.0]))
    # bin 0: 0.05 against 0. Last bin: mean of 0.95, 0.95, 1 against 2/3
    assert error == pytest.approx(0.25 * 0.05 + 0.75 * (2.9 / 3 - 2 / 3))
    assert [(b["low"], b["pairs"]) for b in bins] == [(0.0, 1), (0.9, 3)]
    assert bins[1]["observed"] == pytest.approx(2 / 3)


def test_what_a_search_of_the_whole_gallery_shows(table, shown):
    queries = np.flatnonzero(table.splits == "val")
    products = table.vectors[queries].astype(float) @ table.vectors.T.astype(float)
    products[np.arange(len(queries)), queries] = -9  # the query itself
    nearest = np.argsort(-products, axis=1)[:, :10]
    np.testing.assert_allclose(shown.similarities, np.take_along_axis(products, nearest, 1), atol=1e-6)
    same = table.labels[nearest] == table.labels[queries, None]
    np.testing.assert_array_equal(shown.hits, same)
    own_class = table.labels[queries, None] == table.labels[None, :]
    np.testing.assert_allclose(shown.nearest_other, np.where(own_class, -9, products).max(axis=1), atol=1e-6)
    assert shown.gallery == len(table)


def test_queries_without_an_answer_and_gallery_only_rows_do_not_ask(table):
    val = of(table, "val")
    first = val.labels == val.labels[0]
    lonely = table.select((table.labels != val.labels[0]) | (table.ids == val.ids[0]))  # one image left of its class
    assert len(sample_neighbors(val.select(first), table).classes) == first.sum()
    outside = first & (val.ids != val.ids[0])  # not in the gallery, and one image of their class is
    assert len(sample_neighbors(val.select(first), lonely).classes) == outside.sum()
    roles = np.full(len(val), "gallery", object)
    roles[:7] = "query"
    asked = Embeddings(val.ids, val.labels, roles, val.splits, val.vectors)
    assert len(sample_neighbors(asked, table).classes) == 7
    assert sample_neighbors(val, val.select(first)) is None  # nothing else is there


def votes(similarities, labels, temperature):
    """Log odds of the soft vote for each answer, with one more vote of the last one's weight against it."""
    found = np.empty(similarities.shape)
    for query, (row, names) in enumerate(zip(similarities, labels, strict=True)):
        weights = [math.exp((value - row[0]) / temperature) for value in row]
        for at, name in enumerate(names):
            for_it = sum(w for w, other in zip(weights, names, strict=True) if other == name)
            against = sum(w for w, other in zip(weights, names, strict=True) if other != name) + weights[-1]
            found[query, at] = math.log(for_it + 1e-4) - math.log(against + 1e-4)
    return found


def test_probability_is_a_logistic_regression_on_similarity_and_agreement(calibration, shown):
    probability = calibration["probability"]
    agreement = votes(shown.similarities, shown.labels, probability["temperature"])
    features = np.stack([shown.similarities.ravel(), agreement.ravel()], axis=1)
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)
    oracle = LogisticRegression(C=1 / (2e-3 * len(features)), tol=1e-8).fit(scaled, shown.hits.ravel())
    expected = oracle.predict_proba(scaled)[:, 1]
    found = match_probability(probability, shown.similarities, shown.labels)
    np.testing.assert_allclose(found.ravel(), expected, atol=2e-3)
    assert calibration["right"] == shown.hits.sum()
    assert calibration["gallery"] == shown.gallery
    json.dumps(calibration, allow_nan=False)


def test_probability_by_hand():
    probability = {"neighbors": 3, "temperature": 0.1, "intercept": -1.0, "similarity": 2.0, "agreement": 0.5}
    similarities = np.array([[0.9, 0.8, 0.8, 0.3]])
    (found,) = match_probability(probability, similarities, np.array([["a", "b", "a", "a"]], object))
    weight = math.exp(-1)
    odds = [(1 + weight) / (2 * weight), weight / (1 + 2 * weight), (1 + weight) / (2 * weight)]
    for value, similarity, share in zip(found, (0.9, 0.8, 0.8), odds, strict=False):
        assert value == pytest.approx(1 / (1 + math.exp(1 - 2 * similarity) / share**0.5), abs=1e-3)
    assert math.isnan(found[3])  # farther down the list than the fit reaches


def test_a_nearer_answer_is_never_less_likely(calibration):
    probability = calibration["probability"]
    assert min(probability["similarity"], probability["agreement"]) >= 0
    labels = np.array([[1, 2, 1, 3, 2, 1, 4, 5, 1, 2]])
    for steps in (np.linspace(0.5, 0.9, 9), np.linspace(0.1, 0.5, 9)):
        chances = []
        for second in steps:
            row = np.array([[1.0, second, *np.linspace(steps[0], 0, 8)]])
            chances.append(match_probability(probability, row, labels)[0, 1])
        assert np.all(np.diff(chances) >= 0)


def test_holds_on_classes_that_had_no_part_in_the_fit():
    errors, rates = [], []
    for seed in range(8):
        table = catalogue(seed=seed)
        found = calibrate(sample_neighbors(of(table, "val"), table), split="val", seed=seed)
        test = sample_neighbors(of(table, "test"), table)
        chances = match_probability(found["probability"], test.similarities, test.labels)
        errors.append(calibration_error(chances.ravel(), test.hits.ravel().astype(float))[0])
        rates.append((test.nearest_other >= found["unknown"]["threshold"]).mean())
    assert np.mean(errors) < 0.035
    assert np.mean(rates) < 0.05
    assert sum(error <= 0.05 for error in errors) >= 7
    assert sum(rate <= 0.1 for rate in rates) >= 7


def test_a_gallery_of_validation_classes_alone_would_promise_too_much(table):
    val, test = of(table, "val"), sample_neighbors(of(table, "test"), table)
    alone = calibrate(sample_neighbors(val, val), split="val")
    assert (test.nearest_other >= alone["unknown"]["threshold"]).mean() > 0.1


def test_threshold_is_the_lowest_that_a_class_that_always_gets_an_answer_leaves(calibration, shown):
    unknown = calibration["unknown"]
    classes = np.unique(shown.classes)

    def mean_rate(threshold):
        rates = [(shown.nearest_other[shown.classes == label] >= threshold).mean() for label in classes]
        return (sum(rates) + 1) / (len(classes) + 1)

    assert mean_rate(unknown["threshold"]) <= 0.05
    assert mean_rate(shown.nearest_other[shown.nearest_other < unknown["threshold"]].max()) > 0.05
    assert unknown["false_accept"] == pytest.approx((shown.nearest_other >= unknown["threshold"]).mean())
    assert unknown["known_answered"] == pytest.approx((shown.similarities[:, 0] >= unknown["threshold"]).mean())


def test_threshold_by_hand():
    # 20 classes of two queries each, a target of a tenth: two classes and a tenth may get an answer, of these one that
    # is only counted. So of 0.99, 0.98, 0.97 ... the first two pass, half a class each, and the third does not.
    classes = np.repeat(np.arange(20), 2)
    nearest_other = 0.99 - 0.01 * np.arange(40)
    similarities = np.column_stack([np.full(40, 0.975), np.full(40, 0.5)])
    labels = np.column_stack([classes, classes + 1])
    found = calibrate(NeighborSample(classes, similarities, labels, nearest_other, 400), split="val", target=0.1)[
        "unknown"
    ]
    assert found["threshold"] == pytest.approx(0.97, abs=1e-6)
    assert found["threshold"] > np.float32(0.97)
    assert (found["false_accept"], found["known_answered"]) == (2 / 40, 1)
    tied = NeighborSample(classes, similarities, labels, np.full(40, 0.6), 400)  # none can pass without all others
    assert calibrate(tied, split="val", target=0.1)["unknown"]["false_accept"] == 0


def test_too_little_has_a_reason(shown, table):
    first = np.unique(shown.classes)[: FEW_CLASSES - 1]
    few = shown.select(np.isin(shown.classes, first))
    assert calibrate(few, split="val") == {
        "split": "val",
        "reason": f"split 'val': 14 classes of {len(few.classes)} queries are too few, 15 classes are needed "
        "to fit a match probability",
    }
    assert "0 classes of 0 queries" in calibrate(None, split="val")["reason"]
    apart = np.eye(40, dtype="float32")[np.repeat(np.arange(40), 11)]
    text = [[f"{n}" for n in range(440)], [f"{n // 11}" for n in range(440)], ["both"] * 440, ["val"] * 440]
    perfect = Embeddings(*(np.array(column, object) for column in text), apart)
    assert "4400 right and 0 wrong neighbours" in calibrate(sample_neighbors(perfect, perfect), split="val")["reason"]
    assert calibrate(shown, split="val", target=0.01)["unknown"] == {
        "reason": "30 classes are too few to guarantee a rate of 0.01, 99 are needed",
        "target": 0.01,
    }


def test_the_seed_determines_the_calibration(calibration, shown):
    assert calibrate(shown, split="val", seed=1) == calibration
