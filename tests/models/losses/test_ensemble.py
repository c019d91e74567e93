"""EnsembleLoss: published weights, totals, diversity and compression; its running means."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from anchorage.geometry import weighted_concatenation
from anchorage.losses.contrastive import ContrastiveLoss
from anchorage.losses.ensemble import (
    EnsembleLoss,
    compression_cost,
    first_coefficients,
    lack_of_diversity,
)
from anchorage.losses.mined import MinedLoss
from anchorage.losses.multi_similarity import MultiSimilarityLoss
from anchorage.losses.proxy_nca import ProxyNCALoss
from anchorage.losses.triplet import TripletLoss
from anchorage.mining import BatchEasyHardMiner

CASES = {
    case["name"]: case
    for case in json.loads((Path(__file__).parents[2] / "data" / "vectors" / "15-loss-ensemble.json").read_text())
}
PAIR = [ContrastiveLoss(), MultiSimilarityLoss(mining=False)]
X, LABELS = np.random.default_rng(0).normal(size=(6, 3)), np.array([0, 0, 1, 1, 2, 2])


def test_published_first_weights():
    expected = CASES["initial_coefficients"]["expected"]
    found = first_coefficients(CASES["initial_coefficients"]["inputs"]["prior"])
    np.testing.assert_allclose(found, expected["c"], rtol=1e-12)
    np.testing.assert_allclose(np.square(found) + expected["a"], expected["weights"], rtol=1e-12)


@pytest.mark.parametrize("name", ["total_two_batches", "total_on_simplex", "total_with_tiny_loss"])
def test_published_totals(name):
    case = CASES[name]
    loss = EnsembleLoss(members=[ContrastiveLoss()] * 4, dtype="float64")
    loss.build((None, 3), (None,))
    loss.coefficients.assign(case["inputs"]["c"])
    values = tf.Variable(np.array(case["inputs"]["losses"]))
    with tf.GradientTape() as tape:
        total = loss.total(values, np.array(case["inputs"]["running_means"]))
    of_values, of_c = tape.gradient(total, [values, loss.coefficients.value])
    assert float(total) == pytest.approx(case["expected"]["total"], rel=1e-9)
    np.testing.assert_allclose(of_values, case["expected"]["grad_losses"], rtol=1e-9)
    np.testing.assert_allclose(of_c, case["expected"]["grad_c"], rtol=1e-9)


def test_published_diversity():
    case = CASES["diversity_three_heads"]
    heads = tf.Variable(np.swapaxes(np.array(case["inputs"]["heads"]), 0, 1))
    with tf.GradientTape() as tape:
        value = lack_of_diversity(heads)
    norms = np.linalg.norm(tape.gradient(value, heads), axis=(0, 2))
    assert float(value) == pytest.approx(case["expected"]["loss"], rel=1e-9)
    np.testing.assert_allclose(norms, case["expected"]["grad_norms"], rtol=1e-9)


def test_published_compression():
    case = CASES["distance_compression"]
    small = tf.Variable(np.array(case["inputs"]["compressed"]))
    with tf.GradientTape() as tape:
        value = compression_cost(small, np.array(case["inputs"]["concatenated"]))
    assert float(value) == pytest.approx(case["expected"]["loss"], rel=1e-9)
    assert np.linalg.norm(tape.gradient(value, small)) == pytest.approx(case["expected"]["grad_norm"], rel=1e-7)


def test_published_concatenation():
    case = CASES["weighted_concatenation"]
    heads = np.swapaxes(np.array(case["inputs"]["heads"]), 0, 1)
    found = np.array(weighted_concatenation(heads, np.array(case["inputs"]["weights"])))
    np.testing.assert_allclose(found, case["expected"]["embedding"], rtol=1e-9, atol=1e-12)
    assert pdist(found, "sqeuclidean")[0] == pytest.approx(case["expected"]["squared_distance_rows_0_1"], rel=1e-9)


def plain_members(x, labels):
    """Contrastive loss and Multi-Similarity without mining, as loops."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    pull, push, total = [], [], 0.0
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        pull += [np.linalg.norm(x[i] - x[j]) for j in others if labels[i] == labels[j]]
        push += [max(0.0, 1 - np.linalg.norm(x[i] - x[j])) for j in others if labels[i] != labels[j]]
        total += np.log1p(sum(np.exp(-2 * (x[i] @ x[j] - 0.5)) for j in others if labels[i] == labels[j])) / 2
        total += np.log1p(sum(np.exp(50 * (x[i] @ x[j] - 0.5)) for j in others if labels[i] != labels[j])) / 50
    sides = [[cost for cost in side if cost > 0] for side in (pull, push)]
    return [sum(np.mean(side) for side in sides if side), total / len(x)]


@given(st.integers(2, 8), st.integers(1, 3), st.booleans(), st.floats(0, 2), st.integers(0, 2**16))
def test_matches_reference_over_three_batches(rows, classes, with_heads, eta, seed):
    rng = np.random.default_rng(seed)
    loss = EnsembleLoss(members=PAIR, eta=eta, diversity_weight=0.3, dtype="float64")
    loss.build((None, 3), (None,))
    c, seen = rng.normal(size=2), []
    loss.coefficients.assign(c)
    for _ in range(3):
        x, labels = rng.normal(size=(rows, 2, 3)), rng.integers(0, classes, rows)
        heads = [x[:, 0], x[:, 1]] if with_heads else [x[:, 0]] * 2
        values = [plain_members(head, labels)[place] for place, head in enumerate(heads)]
        seen.append(values)
        means, weights = np.mean(seen, axis=0), c**2 + 1 / 8
        wanted = 100 * eta * (weights.sum() - 1) ** 2
        for value, mean, weight in zip(values, means, weights, strict=True):
            wanted += weight * value * (means.mean() / mean if mean > 1e-8 else 1.0)
        if with_heads:
            wanted += 0.3 * max(0.0, 2 - np.mean(np.linalg.norm(x[:, 0] - x[:, 1] + 1e-6, axis=1)))
        found = loss(x[:, 0], labels, **({"heads": x} if with_heads else {}))
        assert float(found) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_running_means_are_plain_averages_of_the_training_batches():
    loss = EnsembleLoss(members=PAIR, dtype="float64")
    rng, seen = np.random.default_rng(1), []
    for _ in range(4):
        x = rng.normal(size=(6, 3))
        loss(x, LABELS, training=True)
        loss(10 * x[::-1], LABELS, training=False)
        seen.append([float(member(x, LABELS)) for member in loss.losses_of_members])
    np.testing.assert_allclose(loss.means, np.mean(seen, axis=0), rtol=1e-9)


def test_weights_sum_to_one_at_first_and_keep_a_least():
    loss = EnsembleLoss(members=PAIR, prior=[1.0, 3.0], dtype="float64")
    loss.build((None, 3), (None,))
    np.testing.assert_allclose(loss.weights_of_members(), [0.25, 0.75], atol=1e-7)
    for coefficients in ([0.0, 0.0], [-3.0, 0.1]):
        loss.coefficients.assign(coefficients)
        np.testing.assert_allclose(loss.weights_of_members(), np.square(coefficients) + 1 / 8, rtol=1e-12)


def test_softmax_weights_start_at_the_prior_and_sum_to_one():
    loss = EnsembleLoss(members=PAIR, prior=[1.0, 99.0], weighting="softmax", dtype="float64")
    loss.build((None, 3), (None,))
    np.testing.assert_allclose(loss.weights_of_members(), [0.01, 0.99], atol=1e-7)
    loss.coefficients.assign([1.0, 3.0])
    np.testing.assert_allclose(loss.weights_of_members(), [1 / (1 + np.e**2), np.e**2 / (1 + np.e**2)], rtol=1e-7)
    values, means = np.array([1.2, 0.3]), np.array([1.0, 0.4])
    wanted = (1.2 * 0.7 / 1.0 + np.e**2 * 0.3 * 0.7 / 0.4) / (1 + np.e**2)
    assert float(loss.total(values, means)) == pytest.approx(wanted, rel=1e-7)


def test_fixed_weights_give_the_plain_weighted_sum_of_members_with_miners_of_their_own():
    members = [MinedLoss(TripletLoss(), BatchEasyHardMiner()), ContrastiveLoss(neg_margin=0.5)]
    loss = EnsembleLoss(members=members, prior=[2.0, 0.1], weighting="fixed", dtype="float64")
    # The second step finds nothing remembered from the first.
    for _ in range(2):
        batch_hard, pairs = TripletLoss(mining="batch_hard", dtype="float64"), ContrastiveLoss(neg_margin=0.5)
        wanted = 2 * float(batch_hard(X, LABELS)) + 0.1 * float(pairs(X, LABELS))
        assert float(loss(X, LABELS, training=True)) == pytest.approx(wanted, rel=1e-6)
    assert not loss.weights
    plain = EnsembleLoss(members=PAIR, weighting="fixed", dtype="float64")
    np.testing.assert_array_equal(plain.weights_of_members(), [1.0, 1.0])


def test_order_of_the_members_does_not_matter():
    loss = EnsembleLoss(members=[ContrastiveLoss()] * 3, dtype="float64")
    loss.build((None, 3), (None,))
    values, means, c = np.array([1.2, 0.3, 2.5]), np.array([1.0, 0.4, 2.0]), np.array([0.5, 0.25, 0.7])
    totals = []
    for order in ([0, 1, 2], [2, 0, 1]):
        loss.coefficients.assign(c[order])
        totals.append(float(loss.total(values[order], means[order])))
    assert totals[0] == pytest.approx(totals[1], rel=1e-12)


def test_lack_of_diversity_lies_between_opposite_and_equal_heads():
    heads = X[:, None] / np.linalg.norm(X, axis=1)[:, None, None]
    assert float(lack_of_diversity(np.concatenate([heads, -heads], axis=1))) == pytest.approx(0.0, abs=1e-5)
    assert float(lack_of_diversity(np.concatenate([heads] * 3, axis=1))) == pytest.approx(2.0, abs=1e-5)
    mixed = np.random.default_rng(4).normal(size=(6, 3, 3))
    assert 0 < float(lack_of_diversity(mixed / np.linalg.norm(mixed, axis=2, keepdims=True))) < 2


def test_first_batch_brings_all_members_to_one_size():
    loss = EnsembleLoss(members=PAIR, prior=[1.0, 3.0], dtype="float64")
    values = [float(member(X, LABELS)) for member in loss.losses_of_members]
    assert float(loss(X, LABELS)) == pytest.approx(np.mean(values), rel=1e-6)


def test_no_member_is_pushed_upwards_by_one_that_falls_below_zero():
    loss = EnsembleLoss(members=[ProxyNCALoss(3, scale_x=1.0), *PAIR], eta=0.0, dtype="float64")
    loss(X, LABELS, training=False)
    proxies = loss.losses_of_members[0].bank.proxies
    proxies.assign(8.0 * np.eye(3))
    rows = np.repeat(np.eye(3), 2, axis=0) + 0.1 * X  # each near the proxy of its class
    values = np.array([float(member(rows, LABELS)) for member in loss.losses_of_members])
    assert values[0] < -0.5  # the mean of all three is below 0 as well
    assert np.mean(values) < 0
    loss(rows, LABELS)
    np.testing.assert_allclose(loss.means, np.abs(values), rtol=1e-9)
    seen = tf.Variable(values)
    with tf.GradientTape() as tape:
        total = loss.total(seen, loss.means)
    wanted = np.mean(np.abs(values)) / np.abs(values) / 3  # equal weights, all of one size
    np.testing.assert_allclose(tape.gradient(total, seen), wanted, rtol=1e-7)


def test_a_batch_that_is_not_finite_leaves_the_means_as_they_are():
    loss = EnsembleLoss(members=PAIR, dtype="float64")
    loss(X, LABELS)
    before = np.array(loss.means)
    assert np.isnan(float(loss(np.where(X > 1, np.nan, X), LABELS)))
    np.testing.assert_array_equal(loss.means, before)
    loss(X, LABELS)
    np.testing.assert_allclose(loss.means, before, rtol=1e-12)


def test_heads_go_to_their_members_and_compression_leaves_the_embeddings_alone():
    loss = EnsembleLoss(members=PAIR, diversity_weight=0.0, eta=0.0, dtype="float64")
    heads = tf.Variable(np.random.default_rng(3).normal(size=(6, 2, 3)))
    x, small = tf.Variable(X), tf.Variable(X[:, :2])
    with tf.GradientTape() as tape:
        value = loss(x, LABELS, heads=heads, compressed=small)
    plain = loss(x, LABELS, heads=heads, training=False)
    whole = weighted_concatenation(heads, loss.weights_of_members())
    assert float(loss(x, LABELS, heads=heads, compressed=small, training=False)) == pytest.approx(
        float(plain) + float(compression_cost(small, whole)), rel=1e-9
    )
    of_x, of_heads, of_small = tape.gradient(value, [x, heads, small], unconnected_gradients="zero")
    assert not np.any(of_x)
    assert np.any(of_small)
    assert np.any(of_heads[:, 0])
    assert np.any(of_heads[:, 1])


def test_compression_costs_nothing_once_distances_are_kept_in_proportion():
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    assert float(compression_cost(3.0 * X @ turn + 5.0, X)) == pytest.approx(0.0, abs=1e-6)
    assert float(compression_cost(-2.0 * X, X)) == pytest.approx(0.0, abs=1e-6)
    assert float(compression_cost(X[:, :2], X)) == pytest.approx(float(compression_cost(7 * X[:, :2], X)), rel=1e-9)


def test_no_gradient_flows_through_the_running_means():
    """Each member's own gradient times its weight and the ratio of means, half of which are of this batch."""
    loss = EnsembleLoss(members=PAIR, prior=[1.0, 3.0], eta=0.0, dtype="float64")
    other = np.random.default_rng(7).normal(size=(6, 3))
    first = [float(member(other, LABELS)) for member in loss.losses_of_members]
    loss(other, LABELS)
    x = tf.Variable(X)
    with tf.GradientTape(persistent=True) as tape:
        total = loss(x, LABELS)
        values = [member(x, LABELS) for member in loss.losses_of_members]
    means = np.mean([first, [float(value) for value in values]], axis=0)
    own = [tape.gradient(value, x).numpy() for value in values]
    wanted = sum(w * means.mean() / mean * slope for w, mean, slope in zip([0.25, 0.75], means, own, strict=True))
    np.testing.assert_allclose(tape.gradient(total, x), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"members": []}, "`members` must name at least one loss"),
        ({"members": ["contrastive"]}, "`members` must be a Keras layer"),
        ({}, "`num_classes` is needed for the losses inside by default"),
        ({"members": PAIR, "prior": [1.0, 0.01]}, "`prior` must give each loss at least a share of 0.1250"),
        ({"members": PAIR, "prior": [1.0]}, "Expected 2 numbers in `prior`"),
        ({"members": PAIR, "prior": [1.0, -1.0], "weighting": "fixed"}, "Expected 2 numbers in `prior`, above 0"),
        ({"members": PAIR, "weighting": "learned"}, "`weighting` must be one of .*Received: weighting='learned'"),
        ({"members": PAIR, "eta": -1}, "`eta` must not be negative. Received: eta=-1"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        EnsembleLoss(**params)
