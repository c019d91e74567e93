"""Hard class mining on the published case and against the definition, one class at a time."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import UsageError
from models.mining.hard_classes import pick_hard_classes

CASES = json.loads((Path(__file__).parents[2] / "data" / "vectors" / "09-n-pair.json").read_text())


def test_published_case():
    case = next(case for case in CASES if case["name"] == "hard_class_mining_greedy")
    names = list(case["inputs"]["class_embeddings"])
    means = [np.mean(case["inputs"]["class_embeddings"][name], axis=0) for name in names]
    chosen = pick_hard_classes(means, case["params"]["num_classes"], names.index(case["inputs"]["start_class"]))
    assert [names[row] for row in chosen] == case["expected"]["selected"]


@given(st.integers(1, 12), st.integers(0, 2**16))
def test_every_class_comes_nearest_to_those_before(classes, seed):
    means = np.random.default_rng(seed).normal(size=(classes, 3))
    chosen = pick_hard_classes(means, classes, seed=seed).tolist()
    assert sorted(chosen) == list(range(classes))
    for place in range(1, classes):
        best = {row: max(means[row] @ means[done] for done in chosen[:place]) for row in chosen[place:]}
        assert best[chosen[place]] == pytest.approx(max(best.values()), rel=1e-12)


def test_ties_are_drawn_with_the_seed():
    means = np.ones((6, 2))
    assert pick_hard_classes(means, 3).tolist() == [0, 1, 2]
    drawn = {tuple(pick_hard_classes(means, 3, seed=seed)) for seed in range(20)}
    assert len(drawn) > 10
    assert pick_hard_classes(means, 3, seed=4).tolist() == pick_hard_classes(means, 3, seed=4).tolist()


def test_wrong_values_are_told():
    with pytest.raises(UsageError, match=r"`count` from 1 to the number of classes, 2. Received: count=3"):
        pick_hard_classes(np.ones((2, 2)), 3)
    with pytest.raises(ValueError, match=r"`start` must be a row of `class_means`, below 2. Received: start=2"):
        pick_hard_classes(np.ones((2, 2)), 1, start=2)
