"""Pair statistics against a hand-worked line of points and a plain loop over pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.retrieval.pairs import BINS, EDGES, pair_statistics


def on_circle(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def bin_of(similarity):
    return int((similarity + 1) * BINS / 2)


def reference(vectors, labels, roles):
    """(query, positives, negatives, rank of the first positive) by a loop in float64; ties by row."""
    found = []
    for query, vector in enumerate(vectors.astype("float64")):
        others = [row for row in range(len(labels)) if row != query and roles[row] != "query"]
        scores = {row: float(vector @ vectors[row]) for row in others}
        positives = [row for row in others if labels[row] == labels[query]]
        if roles[query] == "gallery" or not positives:
            continue
        order = sorted(others, key=lambda row: (-round(scores[row], 6), row))
        negatives = [scores[row] for row in others if labels[row] != labels[query]]
        rank = min(order.index(row) for row in positives) + 1
        found.append((query, [scores[row] for row in positives], negatives, rank))
    return found


def test_hand_worked_circle():
    # a at 0 and 30 degrees, b at 10 and 90: queries 0 and 2 see each other first
    stats = pair_statistics(on_circle(0, 30, 10, 90), np.array(list("aabb")), np.array(["both"] * 4))
    assert stats.query_rows.tolist() == [0, 1, 2, 3]
    assert stats.first_hit.tolist() == [2, 2, 3, 2]
    np.testing.assert_allclose(stats.hardest_negative, np.cos(np.radians([10, 20, 10, 60])), atol=1e-6)
    assert stats.positive.sum() == 4
    assert stats.positive[bin_of(np.cos(np.radians(30)))] == 2
    assert stats.positive[bin_of(np.cos(np.radians(80)))] == 2
    assert stats.negative.sum() == 8


@given(st.integers(2, 25), st.integers(1, 5), st.integers(0, 2**16), st.booleans())
def test_matches_reference(rows, classes, seed, one_gallery):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = rng.integers(0, classes, rows)
    roles = np.array(["both"] * rows if one_gallery else rng.choice(["query", "gallery", "both"], rows))
    stats = pair_statistics(vectors, labels, roles, block_bytes=200)
    expected = reference(vectors, labels, roles)
    assert stats.query_rows.tolist() == [query for query, *_ in expected]
    assert stats.first_hit.tolist() == [rank for *_, rank in expected]
    assert stats.positive.sum() == sum(len(positives) for _, positives, _, _ in expected)
    assert stats.negative.sum() == sum(len(negatives) for _, _, negatives, _ in expected)
    hardest = [max(negatives, default=-np.inf) for _, _, negatives, _ in expected]
    np.testing.assert_allclose(stats.hardest_negative, hardest, atol=1e-5)


def test_ties_are_ranked_by_row():
    vectors = on_circle(0, 0, 0)
    both = np.array(["both"] * 3)
    assert pair_statistics(vectors, np.array(list("aba")), both).first_hit.tolist() == [2, 1]
    assert pair_statistics(vectors, np.array(list("aab")), both).first_hit.tolist() == [1, 1]


def test_sample_is_seeded_and_marked_as_a_sample():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 3)).astype(np.float32)
    arguments = vectors, np.arange(60) % 4, np.array(["both"] * 60)
    first, again = (pair_statistics(*arguments, max_queries=10, seed=5) for _ in range(2))
    assert len(first.query_rows) == 10
    assert first.all_queries == 60
    assert first.query_rows.tolist() == again.query_rows.tolist()
    assert first.query_rows.tolist() != pair_statistics(*arguments, max_queries=10, seed=6).query_rows.tolist()


def test_no_pairs_at_all():
    stats = pair_statistics(on_circle(0, 90), np.array([0, 1]), np.array(["both"] * 2))
    assert len(stats.query_rows) == stats.positive.sum() == stats.negative.sum() == 0


def test_edges_are_steps_of_a_ten_thousandth():
    assert EDGES[0] == -1
    assert EDGES[-1] == 1
    assert np.diff(EDGES) == pytest.approx(0.0001)
