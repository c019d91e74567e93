"""N-pair batches: pairs of every class in turn, and the published case of hard class mining."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.data.sampling.n_pair import NPairBatches, hard_classes
from anchorage.errors import UsageError

CASES = json.loads((Path(__file__).parents[3] / "data" / "vectors" / "09-n-pair.json").read_text())
LABELS = np.repeat(np.arange(12), [1, 5, 2, 3, 4, 2, 6, 1, 2, 3, 2, 2])  # ten classes of two items or more


def test_published_case_of_hard_class_mining():
    case = next(case for case in CASES if case["name"] == "hard_class_mining_greedy")
    names = list(case["inputs"]["class_embeddings"])
    centres = np.array([np.mean(rows, axis=0) for rows in case["inputs"]["class_embeddings"].values()])
    assert names[0] == case["inputs"]["start_class"]
    assert [names[c] for c in hard_classes(centres, case["params"]["num_classes"])] == case["expected"]["selected"]


def test_hard_classes_are_different_and_ties_go_to_the_first():
    assert hard_classes(np.ones((5, 2)), 4).tolist() == [0, 1, 2, 3]
    assert hard_classes(-np.eye(3), 3).tolist() == [0, 1, 2]


@given(st.integers(1, 12), st.integers(0, 2**16))
def test_every_hard_class_comes_nearest_to_those_before(classes, seed):
    means = np.random.default_rng(seed).normal(size=(classes, 3))
    chosen = hard_classes(means, classes).tolist()
    assert sorted(chosen) == list(range(classes))
    for place in range(1, classes):
        best = {row: max(means[row] @ means[done] for done in chosen[:place]) for row in chosen[place:]}
        assert best[chosen[place]] == pytest.approx(max(best.values()), rel=1e-12)


@given(st.sampled_from(["none", "hard_class"]), st.integers(1, 10), st.integers(0, 100), st.integers(0, 2**31))
def test_every_batch_is_pairs_of_different_items_of_different_classes(mining, pairs, step, seed):
    sampler = NPairBatches(LABELS, pairs, seed, mining=mining)
    sampler.update(np.random.default_rng(seed).normal(size=(20, 3)))
    rows = sampler.batch(step)
    assert (len(rows), rows.dtype) == (sampler.batch_size, np.int64)
    first, second = rows.reshape(pairs, 2).T
    assert (LABELS[first] == LABELS[second]).all()
    assert (first != second).all()
    assert len(set(LABELS[first].tolist())) == pairs
    assert not {0, 7} & set(LABELS[rows].tolist())  # classes of one item


def test_every_class_comes_up_once_in_a_round():
    sampler = NPairBatches(LABELS, pairs=5, seed=1)
    assert (sampler.refreshes, sampler.steps_per_round) == (False, 2)
    for number in range(3):
        rows = np.concatenate([sampler.batch(2 * number + step) for step in range(2)])
        assert sorted(set(LABELS[rows].tolist())) == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]


def test_hard_batches_hold_the_classes_that_confuse():
    # Two crowds of classes at right angles: whichever class a batch begins with, the rest of its crowd follows.
    labels = np.repeat(np.arange(12), 3)
    sampler = NPairBatches(labels, pairs=4, seed=0, mining="hard_class", candidates=12)
    crowds = np.repeat(np.eye(2), 6, axis=0)
    sampler.update(np.repeat(crowds, 2, axis=0))
    seen = [set((labels[sampler.batch(step)] // 6).tolist()) for step in range(20)]
    assert all(len(crowd) == 1 for crowd in seen)
    assert {*map(frozenset, seen)} == {frozenset({0}), frozenset({1})}
    easy = NPairBatches(labels, pairs=4, seed=0, mining="hard_class", candidates=4)  # no choice among four
    easy.update(np.repeat(crowds, 2, axis=0))
    assert any(len(set((labels[easy.batch(step)] // 6).tolist())) == 2 for step in range(20))


def test_the_length_of_a_mean_counts():
    # m_0 . m_1 = 1, m_0 . m_2 = 3 x 0.5: the longer one wins, though its direction is farther off
    assert hard_classes(np.array([[1.0, 0.0], [1.0, 0.0], [1.5, 2.6]]), 2).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"pairs": 11}, "Expected at least 11 different classes of at least two items for a batch. Received: 10"),
        ({"pairs": 0}, "`pairs` must be at least 1. Received: pairs=0"),
        ({"pairs": 3, "candidates": 2}, "`candidates` must be at least 3. Received: candidates=2"),
        ({"pairs": 3, "mining": "hard"}, r"`mining` must be one of \['none', 'hard_class'\]. Received: mining='hard'"),
    ],
)
def test_wrong_settings_are_named(params, text):
    with pytest.raises(UsageError, match=text):
        NPairBatches(LABELS, **params, seed=0)
