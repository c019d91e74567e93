"""BalancedContrastiveLoss against plain loops over pairs, and how its forms meet others."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp

from anchorage.learner import MetricLearner
from anchorage.losses.balanced_contrastive import AGGREGATIONS, BalancedContrastiveLoss
from anchorage.losses.nt_xent import NTXentLoss

OF_MARGINS = tuple(name for name in AGGREGATIONS if name != "log_sum_exp")
VECTORS = Path(__file__).parents[2] / "data" / "vectors" / "19-balance-contrastive.json"


def aggregate(costs, name):
    """`costs`: one list a row."""
    flat = [cost for row in costs for cost in row]
    if name == "sum_per_anchor":
        return sum(flat) / len(costs)
    if name.endswith("nonzero"):
        costs = [[cost for cost in row if cost > 0] for row in costs]
        flat = [cost for cost in flat if cost > 0]
    if name.startswith("anchor"):
        return np.mean([np.mean(row) for row in costs if row]) if any(costs) else 0.0
    return np.mean(flat) if flat else 0.0


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@given(st.integers(1, 10), st.integers(1, 4), st.floats(0, 3), st.sampled_from(OF_MARGINS), st.integers(0, 2**16))
def test_margin_form_matches_reference(rows, classes, lam, aggregation, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    s, n = unit(x) @ unit(x).T, range(rows)
    pull = [[max(0, 0.9 - s[i, j]) for j in n if j != i and labels[i] == labels[j]] for i in n]
    push = [[max(0, s[i, j] - 0.2) for j in n if labels[i] != labels[j]] for i in n]
    loss = BalancedContrastiveLoss(lam, 0.2, 0.9, aggregation, dtype="float64")
    wanted = aggregate(pull, aggregation) + lam * aggregate(push, aggregation)
    assert float(loss(x, labels)) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@given(st.integers(1, 10), st.integers(1, 4), st.booleans(), st.booleans(), st.integers(0, 2**16))
def test_softmax_form_matches_reference(rows, classes, include_positive, norm_by_lambda, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    s, pulls, entropies = unit(x) @ unit(x).T, [], []
    for i in range(rows):
        mine = [s[i, j] for j in range(rows) if j != i and labels[i] == labels[j]]
        other = [s[i, j] for j in range(rows) if labels[i] != labels[j]] + (mine if include_positive else [])
        pulls += [np.mean(mine)] if mine else []
        entropies.append(0.3 * logsumexp(np.array(other) / 0.3) if other else 0.0)
    wanted = (-np.mean(pulls) if pulls else 0.0) + 0.5 * np.mean(entropies)
    options = {"include_positive": include_positive, "norm_by_lambda": norm_by_lambda}
    loss = BalancedContrastiveLoss(0.5, aggregation="log_sum_exp", tau=0.3, dtype="float64", **options)
    wanted = wanted / 1.5 if norm_by_lambda else wanted
    assert float(loss(x, labels)) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_published_case_with_the_mean_instead_of_the_sum_of_exponentials():
    """Its entropy is lower by tau log |A_i|, here |A_i| = N - 1, which has no gradient."""
    case = next(found for found in json.loads(VECTORS.read_text()) if found["name"] == "ntxent_lambda_quarter_logmean")
    x, labels = tf.Variable(np.array(case["inputs"]["embeddings"])), np.array(case["inputs"]["labels"])
    loss = BalancedContrastiveLoss(0.25, aggregation="log_sum_exp", tau=0.5, dtype="float64")
    with tf.GradientTape() as tape:
        value = loss(x, labels)
    positive, entropy = loss.terms(x, labels)
    offset = 0.5 * np.log(len(labels) - 1)
    assert float(value) == pytest.approx(case["expected"]["loss"] + 0.25 * offset, rel=1e-10)
    assert float(positive) == pytest.approx(case["expected"]["positive"], rel=1e-10)
    assert float(entropy) == pytest.approx(case["expected"]["entropy"] + offset, rel=1e-10)
    np.testing.assert_allclose(tape.gradient(value, x), case["expected"]["grad_embeddings"], rtol=1e-9, atol=1e-12)


FORMS = [{"aggregation": name} for name in OF_MARGINS]
FORMS += [{"aggregation": "log_sum_exp", "include_positive": value} for value in (False, True)]


@pytest.mark.parametrize("params", FORMS)
@pytest.mark.parametrize("normalize", [True, False])
def test_balance_ratio_is_that_of_the_gradients(params, normalize):
    rng = np.random.default_rng(6)
    x, labels = tf.Variable(rng.normal(size=(10, 3))), np.array([0, 0, 0, 0, 1, 1, 2, 2, 3, 4])
    loss = BalancedContrastiveLoss(**params, margin=0.2, normalize=normalize, dtype="float64")
    with tf.GradientTape(persistent=True) as tape:
        positive, entropy = loss.terms(x, labels)
    lengths = [np.linalg.norm(tape.gradient(term, x)) for term in (entropy, positive)]
    assert float(loss.balance_ratio(x, labels)) == pytest.approx(lengths[0] / lengths[1], rel=1e-9)
    assert float(loss.balance_ratio(x, np.arange(10))) == 0.0  # no positives, nothing to compare with


def test_watched_terms_are_shown_in_training():
    x, labels = np.random.default_rng(3).normal(size=(8, 3)).astype("float32"), np.arange(8) % 3
    encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)])
    loss = BalancedContrastiveLoss(lam=2.0, watch=True)
    learner = MetricLearner(encoder, loss)
    learner.compile(optimizer=keras.optimizers.SGD(0.0))
    history = learner.fit(x, labels, batch_size=8, epochs=2, verbose=0).history
    embeddings = encoder(x)
    positive, entropy = loss.terms(embeddings, labels)
    shown = [float(positive), float(entropy), float(loss.balance_ratio(embeddings, labels))]
    for name, wanted in zip(("positive_term", "entropy_term", "balance_ratio"), shown, strict=True):
        assert history[name] == pytest.approx([wanted] * 2, rel=1e-5)
    assert history["loss"][0] == pytest.approx(shown[0] + 2 * shown[1], rel=1e-5)


@pytest.mark.parametrize(
    ("params", "wanted"),
    [
        ({"aggregation": "sum_per_anchor"}, 3 / 2),  # 4 times as many: half the weight
        ({"aggregation": "mean"}, 3 * 2),
        ({"aggregation": "anchor_mean_nonzero"}, 3 * 2),
        ({"aggregation": "log_sum_exp"}, 3.0),
    ],
)
def test_weight_found_at_another_size(params, wanted):
    x, labels = np.random.default_rng(3).normal(size=(8, 3)), np.arange(8) % 3
    moved = BalancedContrastiveLoss(**params, lam=3.0, reference_size=2, dtype="float64")
    plain = BalancedContrastiveLoss(**params, lam=wanted, dtype="float64")
    assert float(moved(x, labels)) == pytest.approx(float(plain(x, labels)), rel=1e-9)


def test_lambda_one_with_two_a_class_is_nt_xent():
    # A positive and all others in the softmax: tau times NT-Xent, whose denominator holds the positive.
    x, labels = np.random.default_rng(8).normal(size=(8, 3)), np.arange(8) // 2
    balanced = BalancedContrastiveLoss(aggregation="log_sum_exp", tau=0.2, dtype="float64")
    other = NTXentLoss(temperature=0.2, dtype="float64")
    assert float(balanced(x, labels)) == pytest.approx(0.2 * float(other(x, labels)), rel=1e-9)


def test_aggregations_meet_where_every_pair_costs():
    # Two classes of two, margins out of reach: one positive and two negatives an anchor.
    x, labels = np.random.default_rng(8).normal(size=(4, 3)), np.array([0, 0, 1, 1])
    terms = {
        name: [
            float(x) for x in BalancedContrastiveLoss(margin=-1.0, aggregation=name, dtype="float64").terms(x, labels)
        ]
        for name in OF_MARGINS
    }
    for name in set(OF_MARGINS) - {"sum_per_anchor"}:
        assert terms[name] == pytest.approx(terms["mean"], rel=1e-9)
    assert terms["sum_per_anchor"] == pytest.approx([terms["mean"][0], 2 * terms["mean"][1]], rel=1e-9)


@pytest.mark.parametrize("params", FORMS)
def test_is_affine_in_lambda_and_at_0_only_the_positives_are_left(params):
    x, labels = np.random.default_rng(9).normal(size=(8, 3)), np.arange(8) % 3
    values = [float(BalancedContrastiveLoss(**params, lam=lam, dtype="float64")(x, labels)) for lam in (0, 1, 4)]
    positive, entropy = BalancedContrastiveLoss(**params, dtype="float64").terms(x, labels)
    assert values[0] == float(positive)
    assert values[1:] == pytest.approx([float(positive + lam * entropy) for lam in (1, 4)], rel=1e-12)
    alone = BalancedContrastiveLoss(**params, lam=0.0, dtype="float64")
    assert float(alone(x[:3], labels[:3])) == 0.0  # negatives alone


@given(st.integers(1, 10), st.integers(1, 4), st.floats(-1, 1), st.booleans(), st.integers(0, 2**16))
def test_mean_over_what_costs_is_never_below_the_mean(rows, classes, margin, by_anchor, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    name = "anchor_mean" if by_anchor else "mean"
    every, some = (
        BalancedContrastiveLoss(margin=margin, aggregation=aggregation, dtype="float64").terms(x, labels)
        for aggregation in (name, f"{name}_nonzero")
    )
    assert float(some[0]) >= float(every[0]) - 1e-12
    assert float(some[1]) >= float(every[1]) - 1e-12


@pytest.mark.parametrize(
    ("older", "aggregation"),
    [
        ({"form": "margin", "aggregation": "mean", "power": 0.5}, "mean"),
        ({"form": "margin", "aggregation": "sum_per_anchor", "power": -0.5}, "sum_per_anchor"),
        ({"form": "softmax", "aggregation": "anchor_mean_nonzero", "power": 0.0}, "log_sum_exp"),
    ],
)
def test_older_config_with_a_form_and_its_exponent(older, aggregation):
    config = {**BalancedContrastiveLoss().get_config(), **older, "log_mean": False}
    assert BalancedContrastiveLoss.from_config(config).aggregation == aggregation
    with pytest.raises(ValueError, match=r"no longer takes \[.*'power'\]"):
        BalancedContrastiveLoss.from_config({**config, "power": 2.0})


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"aggregation": "max"}, "`aggregation` must be one of .*Received: aggregation='max'"),
        ({"lam": -1}, "`lam` must not be negative. Received: lam=-1"),
        ({"margin": 2}, r"`margin` must lie in \[-1, 1\]. Received: margin=2"),
        ({"tau": 0}, "`tau` must be positive. Received: tau=0"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        BalancedContrastiveLoss(**params)
