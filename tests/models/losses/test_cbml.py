"""CBMLLoss against a plain loop over anchors, and its meeting point with Multi-Similarity."""

import numpy as np
import pytest
from backends import differentiate
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.cbml import CBMLLoss
from anchorage.losses.multi_similarity import MultiSimilarityLoss


def reference(z, labels, margin, weight, hyper_weight, type, top_neg):
    s, total = z @ z.T, 0.0
    for i in range(len(labels)):
        positives = [s[i, j] for j in range(len(labels)) if j != i and labels[j] == labels[i] and s[i, j] < 1 - 1e-5]
        negatives = [s[i, j] for j in range(len(labels)) if labels[j] != labels[i]]
        if not positives or not negatives:
            continue
        kept = [x for x in positives if x - margin < max(negatives)]
        far = sorted(negatives)[-top_neg:] if top_neg else [x for x in negatives if x + margin > min(positives)]
        if not kept or not far:
            continue
        e = np.sum(np.exp([-(x - 0.5) / 0.5 for x in kept])), np.sum(np.exp([(x - 0.4) / 0.2 for x in far]))
        shape = {
            "log": np.log1p,
            "sqrt": lambda v: np.sqrt(1 + v),
            "const": lambda v: 1 + 0.25 * v,
            "none": lambda v: 0.0,
        }[type]
        center = hyper_weight * np.mean(positives) + (1 - hyper_weight) * np.mean(negatives)
        off = [(x - center) ** 2 for x in negatives]
        total += shape(e[0]) + shape(e[1]) + weight * np.sum(off)
    return total / len(labels)


@given(
    st.integers(1, 12),
    st.integers(1, 4),
    st.floats(0.0, 0.5),
    st.floats(0.0, 2.0),
    st.floats(0.0, 1.0),
    st.sampled_from(["log", "sqrt", "const", "none"]),
    st.sampled_from([None, 1, 3, 100]),
    st.integers(0, 2**16),
)
def test_matches_reference(rows, classes, margin, weight, hyper_weight, type, top_neg, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    params = {"margin": margin, "weight": weight, "hyper_weight": hyper_weight, "type": type, "top_neg": top_neg}
    loss = CBMLLoss(neg_a=0.4, neg_b=0.2, dtype="float64", **params)
    wanted = reference(x / np.linalg.norm(x, axis=1, keepdims=True), labels, **params)
    assert float(loss(x, labels)) == pytest.approx(wanted, rel=1e-8, abs=1e-10)


def test_log_form_without_the_constraint_is_multi_similarity():
    # Its halves come alpha and beta times as large: with alpha = beta = 4 the whole does.
    x, labels = np.random.default_rng(4).normal(size=(12, 3)), np.arange(12) % 4
    loss = CBMLLoss(pos_a=0.3, pos_b=0.25, neg_a=0.3, neg_b=0.25, margin=0.2, weight=0.0, dtype="float64")
    other = MultiSimilarityLoss(alpha=4.0, beta=4.0, base=0.3, eps=0.2, dtype="float64")
    assert float(loss(x, labels)) == pytest.approx(4 * float(other(x, labels)), rel=1e-9)


def test_separated_classes_cost_nothing():
    x, labels = np.eye(4)[[0, 0, 1, 1]] + 0.01 * np.eye(4)[[2, 3, 2, 3]], np.array([0, 0, 1, 1])
    assert float(CBMLLoss(dtype="float64")(x, labels)) == 0.0  # not even for the variance of the negatives


X, LABELS = np.random.default_rng(6).normal(size=(12, 3)), np.arange(12) % 4


def test_no_pair_of_one_kind_costs_nothing():
    for labels in (np.zeros(12, int), np.arange(12)):
        value, [gradient] = differentiate(lambda x, labels=labels: CBMLLoss(dtype="float64")(x, labels), X)
        assert value == 0
        assert not gradient.any()


def test_directions_alone_matter_and_turns_do_not():
    loss, turn = CBMLLoss(neg_a=0.4, neg_b=0.2, dtype="float64"), np.linalg.qr(X[:3])[0]
    value, [gradient] = differentiate(lambda x: loss(x, LABELS), X)
    assert float(loss(X @ turn, LABELS)) == pytest.approx(value, rel=1e-9)
    assert float(loss(X * np.arange(1.0, 13.0)[:, None], LABELS)) == pytest.approx(value, rel=1e-9)
    np.testing.assert_allclose(np.sum(X * gradient, axis=1), 0.0, atol=1e-12)


@pytest.mark.parametrize("type", ["sqrt", "const"])
def test_an_anchor_that_counts_costs_two_at_least(type):
    # All twelve anchors keep pairs of both kinds: their classes lie at random.
    assert float(CBMLLoss(type=type, weight=0.0, margin=2.0, dtype="float64")(X, LABELS)) >= 2


def test_alike_negatives_have_no_variance():
    rows, labels = np.eye(4)[[0, 0, 1, 1]] + 0.2, np.array([0, 0, 1, 1])  # every cosine across is one number
    plain, constrained = (CBMLLoss(weight=w, hyper_weight=0.0, margin=2.0, dtype="float64") for w in (0.0, 5.0))
    assert float(constrained(rows, labels)) == pytest.approx(float(plain(rows, labels)), rel=1e-9)


def test_a_higher_threshold_for_negatives_costs_less():
    low, high = (float(CBMLLoss(neg_a=a, neg_b=0.2, dtype="float64")(X, LABELS)) for a in (0.3, 0.6))
    assert high < low


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"pos_b": 0}, "`pos_b` must be positive. Received: pos_b=0"),
        ({"weight": -1}, "`weight` must not be negative. Received: weight=-1"),
        ({"hyper_weight": 2}, r"`hyper_weight` must lie in \[0, 1\]. Received: hyper_weight=2"),
        ({"type": "cube"}, "`type` must be 'log', 'sqrt', 'const' or 'none'. Received: type='cube'"),
        ({"top_neg": 0}, "`top_neg` must be at least 1, or None. Received: top_neg=0"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        CBMLLoss(**params)
