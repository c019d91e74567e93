"""LiftedStructureLoss against a hand-worked number and a plain loop over the batch, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.lifted_structure import LiftedStructureLoss
from anchorage.pairs.references import References


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(x, labels, neg_margin, pos_margin):
    return reference_of(np.linalg.norm(x[:, None] - x[None], axis=2), labels, neg_margin, pos_margin)


def reference_of(d, labels, neg_margin, pos_margin):
    n, costs = len(d), []
    for a in range(n):
        for p in range(n):
            if a == p or labels[a] != labels[p]:
                continue
            near = sum(np.exp(neg_margin - d[i, k]) for i in (a, p) for k in range(n) if labels[k] != labels[i])
            costs.append(max(0.0, np.log(near) + d[a, p] - pos_margin) ** 2 / 2 if near else 0.0)
    return np.mean(costs) if costs else 0.0


def test_hand_worked_batch():
    # d = 1 in the pair; the negative lies 3 and 2 away: log(e^-2 + e^-1) + 1, for both orders
    embeddings, labels = np.array([[0.0], [1.0], [3.0]]), np.array([5, 5, 7])
    wanted = (np.log(np.exp(-2) + np.exp(-1)) + 1) ** 2 / 2
    assert float(LiftedStructureLoss(normalize=False)(embeddings, labels)) == pytest.approx(wanted, rel=1e-5)


@given(
    st.integers(1, 10),
    st.integers(1, 4),
    st.floats(0.5, 2.0),
    st.floats(0.0, 0.4),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_matches_reference(rows, classes, neg_margin, pos_margin, normalize, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    loss = LiftedStructureLoss(neg_margin, pos_margin, normalize=normalize, dtype="float64")
    wanted = reference(units(embeddings) if normalize else embeddings, labels, neg_margin, pos_margin)
    assert float(loss(embeddings, labels)) == pytest.approx(wanted, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("size", [5, 7, 1100])
def test_matches_reference_with_a_memory(size):
    # An anchor, its positive in the memory, and all of the memory that is of another class than they are.
    rng = np.random.default_rng(size)
    x, labels = units(rng.normal(size=(4, 3))), np.array([0, 0, 1, 2])
    y, others = units(rng.normal(size=(size, 3))), rng.integers(0, 3, size)
    present = np.arange(size) < size - 2
    same = labels[:, None] == others[None]
    kept = same & present & (rng.random(same.shape) < max(0.7, 8 / size)), ~same & present
    costs = []
    for a, p in zip(*np.nonzero(kept[0]), strict=True):
        foes = y[present & (others != labels[a])]
        near = np.sum(np.exp(1 - np.linalg.norm(foes - x[a], axis=1)))
        near += np.sum(np.exp(1 - np.linalg.norm(foes - y[p], axis=1)))
        costs.append(max(0.0, np.log(near) + np.linalg.norm(x[a] - y[p])) ** 2 / 2)
    value = LiftedStructureLoss(dtype="float64")(x, labels, references=References(*kept, y, others, present))
    assert float(value) == pytest.approx(np.mean(costs), rel=1e-8)


def test_similarities_are_taken_with_the_sign_changed():
    x, labels = np.random.default_rng(4).normal(size=(9, 3)), np.arange(9) % 3
    s = units(x) @ units(x).T
    found = float(LiftedStructureLoss(0.2, 0.9, "cosine", dtype="float64")(x, labels))
    assert found == pytest.approx(reference_of(-s, labels, -0.2, -0.9), rel=1e-9)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"distance": "chebyshev"}, "`distance` must be one of .*Received: distance='chebyshev'"),
        ({"reducer": "median"}, "`reducer` must be one of"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        LiftedStructureLoss(**params)
