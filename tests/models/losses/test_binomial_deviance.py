"""BinomialDevianceLoss against hand-worked values and a plain loop over anchors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.binomial_deviance import BinomialDevianceLoss
from anchorage.losses.ensemble import EnsembleLoss


def reference(units, labels, alpha, beta, base):
    s, total = units @ units.T, 0.0
    for i in range(len(labels)):
        near = [j for j in range(len(labels)) if j != i and labels[j] == labels[i]]
        far = [j for j in range(len(labels)) if labels[j] != labels[i]]
        total += np.mean([np.log1p(np.exp(-alpha * (s[i, j] - base))) for j in near]) if near else 0.0
        total += np.mean([np.log1p(np.exp(beta * (s[i, j] - base))) for j in far]) if far else 0.0
    return total / len(labels)


def test_hand_worked_batch():
    # Cosines: 0 within the class, 1 and 0 across it.
    x, labels = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], "float32"), np.array([0, 0, 1])
    pull, near, far = np.log1p(np.exp(1.0)), np.log1p(np.exp(2.0)), np.log1p(np.exp(-2.0))
    loss = BinomialDevianceLoss(beta=4.0)
    assert float(loss(x, labels)) == pytest.approx(((pull + near) + (pull + far) + (near + far) / 2) / 3, rel=1e-6)
    # Over all pairs: two positive ones, and four negative ones, each twice.
    paper = BinomialDevianceLoss(beta=4.0, reducer="mean")
    assert float(paper(x, labels)) == pytest.approx(pull + (near + far) / 2, rel=1e-6)


@given(
    st.integers(1, 10),
    st.integers(1, 4),
    st.floats(0.5, 5.0),
    st.floats(1.0, 60.0),
    st.floats(-0.5, 1.0),
    st.integers(0, 2**16),
)
def test_matches_reference(rows, classes, alpha, beta, base, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    wanted = reference(x / np.linalg.norm(x, axis=1, keepdims=True), labels, alpha, beta, base)
    loss = BinomialDevianceLoss(alpha, beta, base, dtype="float64")
    assert float(loss(x, labels)) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_sharp_limit_is_a_hinge():
    # softplus(a u) / a tends to max(0, u): of the hand-worked cosines 0.5 for positives, and 0.5 and 0 for negatives.
    x, labels = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], "float32"), np.array([0, 0, 1])
    loss = BinomialDevianceLoss(alpha=2000.0, beta=2000.0, reducer="mean")
    assert float(loss(x, labels)) / 2000 == pytest.approx(0.5 + 0.25, rel=1e-5)


def test_is_the_fourth_member_of_the_published_ensemble():
    members = EnsembleLoss(num_classes=3).members
    loss = EnsembleLoss([*members[:2], BinomialDevianceLoss(), members[2]], prior=[2, 1, 2, 3], dtype="float64")
    value = float(loss(np.random.default_rng(0).normal(size=(12, 4)), np.arange(12) % 3))
    np.testing.assert_allclose(loss.weights_of_members(), [0.25, 0.125, 0.25, 0.375], atol=1e-7)
    assert value == pytest.approx(float(np.mean(loss.means)), rel=1e-6)  # all of one size in the first batch


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"alpha": 0}, "`alpha` must be positive. Received: alpha=0"),
        ({"beta": -1}, "`beta` must be positive. Received: beta=-1"),
        ({"base": 2}, r"`base` must lie in \[-1, 1\]. Received: base=2"),
        ({"reducer": "median"}, "`reducer` must be one of .*Received: reducer='median'"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        BinomialDevianceLoss(**params)
