"""Distance-weighted sampling: the published probabilities, their flatness and the draws."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from anchorage.mining.distance_weighted import count_drawn_negatives, negative_probabilities

CASES = json.loads((Path(__file__).parents[2] / "data" / "vectors" / "14-dws-margin.json").read_text())
PROBABILITIES = [case for case in CASES if case["name"].startswith("probs")]


def distances_of(rows):
    return np.linalg.norm(rows[:, None] - rows[None], axis=2)


@pytest.mark.parametrize("case", PROBABILITIES, ids=lambda case: case["name"])
def test_published_probabilities(case):
    rows, labels = np.array(case["inputs"]["embeddings"]), np.array(case["inputs"]["labels"])
    found = negative_probabilities(distances_of(rows), labels[:, None] != labels[None], rows.shape[1])
    np.testing.assert_allclose(found, case["expected"]["probs"], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("dim", [3, 4, 8])
def test_distances_of_draws_are_evenly_spread(dim):
    rows = np.random.default_rng(0).normal(size=(1200, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    distances = distances_of(rows)
    inside = ~np.eye(1200, dtype=bool) & (distances >= 0.5)
    weights = np.array(negative_probabilities(distances, inside, dim))
    share, _ = np.histogram(distances, bins=6, range=(0.5, 1.4), weights=weights)
    np.testing.assert_allclose(share / share.sum(), 1 / 6, atol=0.02)


@pytest.mark.parametrize("dim", [2, 3, 16, 128, 512])
def test_opposite_and_equal_points_give_no_nan(dim):
    rows = np.zeros((4, dim), "float32")
    rows[:, 0] = [1, 1, -1, -1]
    labels = np.array([0, 1, 2, 3])
    found = np.array(negative_probabilities(distances_of(rows), labels[:, None] != labels[None], dim))
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-5)


def test_probabilities_keep_to_the_eligible_and_follow_the_rows():
    rng = np.random.default_rng(4)
    rows, labels, order = rng.normal(size=(12, 4)), np.arange(12) % 3, rng.permutation(12)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[3] = rows[1] + [0.01, 0, 0, 0]  # nearer than the cutoff, of another class
    rows[5] = rows[1] + [0, 0.02, 0, 0]
    turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]

    def probabilities(rows, labels):
        return np.array(negative_probabilities(distances_of(rows), labels[:, None] != labels[None], 4))

    found = probabilities(rows, labels)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-9)
    assert not np.any(found[(labels[:, None] == labels[None]) | (distances_of(rows) >= 1.4)])
    assert found[1, 3] == pytest.approx(found[1, 5], rel=1e-9) != 0  # all below the cutoff weigh alike
    np.testing.assert_allclose(probabilities(rows @ turn, labels), found, rtol=1e-9)
    np.testing.assert_allclose(probabilities(rows[order], labels[order]), found[order][:, order], rtol=1e-9)


def test_draws_follow_the_probabilities_and_never_take_the_own_class():
    labels = np.repeat(np.arange(4), 50)
    probabilities = np.random.default_rng(0).random(4)[labels] * (labels[:, None] != labels[None])
    probabilities = (probabilities / probabilities.sum(axis=1, keepdims=True)).astype("float32")
    seed = keras.random.SeedGenerator(3)
    counts = tf.function(lambda: count_drawn_negatives(probabilities, np.full(200, 49.0, "float32"), seed))().numpy()
    np.testing.assert_array_equal(counts.sum(axis=1), 49)
    assert not np.any(counts[labels[:, None] == labels[None]])
    by_class = np.array([[counts[labels == a][:, labels == b].sum() for b in range(4)] for a in range(4)]) / (50 * 49)
    wanted = np.array([[probabilities[labels == a][0, labels == b].sum() for b in range(4)] for a in range(4)])
    np.testing.assert_allclose(by_class, wanted, atol=5 * np.sqrt(0.25 / (50 * 49)))


def test_an_anchor_without_negatives_draws_nothing():
    counts = count_drawn_negatives(
        np.zeros((3, 3), "float32"), np.full(3, 2.0, "float32"), keras.random.SeedGenerator(0)
    )
    assert not np.any(counts)


def test_frequencies_of_many_draws():
    # Shares 0.1, 0.2, 0.3 and 0.4, and every column drawn on its own: 100 anchors of 200 draws.
    shares = np.zeros((100, 250), "float32")
    shares[:, :4] = [0.1, 0.2, 0.3, 0.4]
    counts = count_drawn_negatives(shares, np.full(100, 200.0, "float32"), keras.random.SeedGenerator(1))
    found = np.array(counts).sum(axis=0)[:4] / 20_000
    wanted = shares[0, :4]
    assert np.all(np.abs(found - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / 20_000) + 1e-3)
