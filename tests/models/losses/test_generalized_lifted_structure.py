"""GeneralizedLiftedStructureLoss against a hand-worked number and a plain loop over the batch, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.generalized_lifted_structure import GeneralizedLiftedStructureLoss


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(x, labels, neg_margin, pos_margin):
    return reference_of(np.linalg.norm(x[:, None] - x[None], axis=2), labels, neg_margin, pos_margin)


def reference_of(d, labels, neg_margin, pos_margin):
    n, costs = len(d), []
    for i in range(n):
        pull = sum(np.exp(d[i, k] - pos_margin) for k in range(n) if k != i and labels[k] == labels[i])
        push = sum(np.exp(neg_margin - d[i, k]) for k in range(n) if labels[k] != labels[i])
        costs.append(max(0.0, sum(np.log(part) for part in (pull, push) if part)))
    return np.mean(costs)


def test_hand_worked_batch():
    # anchors 0 and 1: 1 + (1 - 3), 1 + (1 - 2), both not above 0; anchor 2 has negatives only: log(e^-2 + e^-1) < 0
    embeddings, labels = np.array([[0.0], [1.0], [3.0]]), np.array([5, 5, 7])
    assert float(GeneralizedLiftedStructureLoss(normalize=False)(embeddings, labels)) == 0
    # with a margin of 2 they cost 0, 1 and log(e^-1 + 1)
    wanted = (1 + np.log(np.exp(-1) + 1)) / 3
    assert float(GeneralizedLiftedStructureLoss(2.0, normalize=False)(embeddings, labels)) == pytest.approx(wanted)


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
    loss = GeneralizedLiftedStructureLoss(neg_margin, pos_margin, normalize=normalize, dtype="float64")
    wanted = reference(units(embeddings) if normalize else embeddings, labels, neg_margin, pos_margin)
    assert float(loss(embeddings, labels)) == pytest.approx(wanted, rel=1e-8, abs=1e-12)


def test_similarities_are_taken_with_the_sign_changed():
    x, labels = np.random.default_rng(4).normal(size=(9, 3)), np.arange(9) % 3
    s = units(x) @ units(x).T
    found = float(GeneralizedLiftedStructureLoss(0.2, 0.9, "cosine", dtype="float64")(x, labels))
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
        GeneralizedLiftedStructureLoss(**params)
