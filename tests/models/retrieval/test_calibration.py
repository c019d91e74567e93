"""Calibration against scikit-learn, hand-worked bins and fresh unknown classes."""

import json

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from models.retrieval.calibration import calibrate, expected_calibration_error, match_probability
from models.retrieval.neighbors import nearest_neighbors


def space(classes=60, each=8, noise=0.9, seed=0, dim=16):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    vectors = rng.normal(size=(classes, dim))[labels] + noise * rng.normal(size=(classes * each, dim))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")
    return vectors, labels, np.full(len(labels), "both")


@pytest.fixture(scope="module")
def calibration():
    return calibrate(*space(), split="val", target=0.1, neighbors=5, seed=1)


def test_hand_worked_bins():
    probabilities = np.array([0.05, 0.95, 0.95, 1.0])
    ece, bins = expected_calibration_error(probabilities, np.array([0.0, 1.0, 0.0, 1.0]))
    # bin 0: 0.05 against 0. Last bin: mean of 0.95, 0.95, 1 against 2/3
    assert ece == pytest.approx(0.25 * 0.05 + 0.75 * (2.9 / 3 - 2 / 3))
    assert [(b["low"], b["pairs"]) for b in bins] == [(0.0, 1), (0.9, 3)]
    assert bins[1]["observed"] == pytest.approx(2 / 3)


def test_probability_is_the_isotonic_fit_over_the_neighbours_shown(calibration):
    vectors, labels, _ = space()
    rows, scores = nearest_neighbors(vectors, vectors, 5, np.arange(len(labels)))
    hits = labels[rows] == labels[:, None]
    expected = IsotonicRegression(out_of_bounds="clip").fit(scores.ravel(), hits.ravel()).predict(scores.ravel())
    found = match_probability(calibration, scores.ravel())
    assert np.abs(found - expected).max() < 0.02  # corners are thinned out
    curve = calibration["probability"]
    assert np.all(np.diff(curve["probability"]) >= 0)
    assert 0 < min(curve["probability"]) < max(curve["probability"]) < 1
    assert calibration["pairs"] == {"right": int(hits.sum()), "wrong": int((~hits).sum())}
    json.dumps(calibration, allow_nan=False)


def test_calibrated_on_other_classes(calibration):
    reliability = calibration["reliability"]
    assert reliability["ece"] < 0.05 < reliability["ece_before"]
    assert reliability["brier"] < reliability["brier_before"]
    vectors, labels, _ = space(seed=9)
    rows, scores = nearest_neighbors(vectors, vectors, 5, np.arange(len(labels)))
    fresh = match_probability(calibration, scores.ravel())
    ece, _ = expected_calibration_error(fresh, (labels[rows] == labels[:, None]).ravel().astype(float))
    assert ece < 0.08


def test_unknown_classes_are_answered_as_rarely_as_promised(calibration):
    unknown = calibration["unknown"]
    assert unknown["false_accept"] <= 0.1
    assert unknown["known_answered"] > unknown["false_accept"]
    rates = []
    for seed in range(20, 30):
        vectors, labels, _ = space(seed=seed)
        _, scores = nearest_neighbors(vectors[labels == 0], vectors[labels != 0], 1)
        rates.append((scores[:, 0] >= unknown["threshold"]).mean())
    assert np.mean(rates) < 0.25  # 80 queries of ten classes: about 0.1, with luck


def test_conformal_rank_by_hand():
    # Seven queries in one gallery of seven classes of two: the best wrong similarities are known exactly.
    vectors, labels, roles = space(classes=10, each=3, noise=0.3)
    found = calibrate(vectors, labels, roles, split="val", target=0.2, neighbors=9)
    products = vectors @ vectors.T
    wrong = np.sort(np.where(labels[:, None] == labels, -1, products).max(axis=1))
    assert found["unknown"]["threshold"] == pytest.approx(wrong[int(np.ceil(31 * 0.8)) - 1], abs=1e-6)
    assert found["unknown"]["false_accept"] == pytest.approx((30 - np.ceil(31 * 0.8)) / 30)


def test_risk_and_coverage(calibration):
    curve = calibration["risk_coverage"]
    assert curve["coverage"][-1] == 1
    vectors, labels, _ = space()
    rows, _ = nearest_neighbors(vectors, vectors, 1, np.arange(len(labels)))
    assert curve["error"][-1] == pytest.approx((labels[rows[:, 0]] != labels).mean())
    assert np.mean(curve["error"][:10]) < np.mean(curve["error"][-10:])


def test_too_little_has_a_reason():
    vectors, labels, roles = space(classes=4, each=3)
    assert calibrate(vectors, labels, roles, split="val") == {
        "split": "val",
        "reason": "split 'val': 12 images of 4 classes are too few to fit a match probability",
    }
    few = calibrate(*space(classes=12, each=3, noise=1.5), split="val", target=0.01)
    assert few["unknown"] == {"reason": "36 queries are too few to promise a rate of 0.01", "target": 0.01}


def test_seeded(calibration):
    assert calibrate(*space(), split="val", target=0.1, neighbors=5, seed=1) == calibration
