"""RoadmapLoss against a plain loop over queries, and SupAP's bound on the true average precision."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.roadmap import RoadmapLoss
from anchorage.losses.smooth_ap import SmoothAPLoss
from anchorage.pairs.references import References

CASES = json.loads((Path(__file__).parents[2] / "data" / "vectors" / "10-roadmap.json").read_text())


def step(u, tau=0.01, rho=100.0, delta=0.05, start=0.5, offset=1.44, at_zero=0.5):
    if u == 0:
        return at_zero
    sigmoid = 1 / (1 + np.exp(-np.clip(u / tau, -50, 50)))
    return rho * (u - delta) + offset if u > delta else sigmoid + (start if u > 0 else 0.0)


def average_precisions(scores, labels, exclude_self, negative_step):
    for q in range(len(labels)):
        mine = [j for j in range(len(labels)) if labels[j] == labels[q] and not (exclude_self and j == q)]
        others = [j for j in range(len(labels)) if labels[j] != labels[q]]
        ranks = []
        for i in mine:
            ahead = sum(scores[q, j] >= scores[q, i] for j in mine)
            ranks.append(ahead / (ahead + sum(negative_step(scores[q, j] - scores[q, i]) for j in others)))
        if mine:
            yield np.mean(ranks)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@given(st.integers(1, 10), st.integers(1, 4), st.booleans(), st.integers(0, 2**16))
def test_average_precision_matches_reference(rows, classes, exclude_self, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    scores = unit(x) @ unit(x).T
    # The query's own score is 1 up to rounding, which decides ties with it: take the loss's own rows.
    values = list(average_precisions(scores, labels, exclude_self, step))
    loss = RoadmapLoss(w_cal=0.0, published_code=not exclude_self, dtype="float64")
    assert float(loss(x, labels)) == pytest.approx(1 - np.mean(values) if values else 0.0, rel=1e-6, abs=1e-9)


@given(st.integers(2, 10), st.integers(0, 2**16))
def test_is_never_below_one_minus_average_precision(rows, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 3)), np.arange(rows) % 2
    true = list(average_precisions(unit(x) @ unit(x).T, labels, True, lambda u: float(u > 0)))
    loss = RoadmapLoss(w_cal=0.0, offset=None, published_code=False, dtype="float64")
    assert float(loss(x, labels)) >= (1 - np.mean(true) if true else 0.0) - 1e-9


@given(st.integers(2, 10), st.booleans(), st.integers(0, 2**16))
def test_ties_count_half_in_the_published_code_and_as_ahead_in_the_paper(rows, published, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.integers(-1, 2, (rows, 2)).astype("float64"), np.arange(rows) % 2  # whole numbers: many ties
    tie = 0.5 if published else 1.0
    values = list(average_precisions(x @ x.T, labels, not published, lambda u: step(u, at_zero=tie)))
    loss = RoadmapLoss(w_cal=0.0, published_code=published, normalize=False, dtype="float64")
    assert float(loss(x, labels)) == pytest.approx(1 - np.mean(values) if values else 0.0, rel=1e-9, abs=1e-9)


def test_configs_of_older_files_load():
    older = RoadmapLoss().get_config()
    del older["published_code"]
    published, paper = {"ties_ahead": False, "exclude_self": False}, {"ties_ahead": True, "exclude_self": True}
    assert RoadmapLoss.from_config({**older, **published}).published_code is True
    assert RoadmapLoss.from_config({**older, **paper}).published_code is False
    with pytest.raises(ValueError, match=r"RoadmapLoss no longer takes \['exclude_self'\]"):
        RoadmapLoss.from_config({**older, "ties_ahead": False, "exclude_self": True})


def test_form_of_the_paper_bounds_the_average_precision_with_ties_too():
    # One positive beside two negatives of the same score: rank 3, so that the average precision is 1/3.
    paper = RoadmapLoss(offset=None, published_code=False, reduction="all", w_ap=0.5, w_cal=0.5)
    scores, mine = np.array([[0.3, 0.3, 0.3]], "float32"), np.array([[True, False, False]])
    assert float(paper.sup_ap(scores, mine, ~mine)) == pytest.approx(2 / 3)
    assert float(RoadmapLoss().sup_ap(scores, mine, ~mine)) == pytest.approx(1 / 2)


def test_published_scores():
    case = next(case for case in CASES if case["name"] == "supap_from_scores")
    scores, targets = tf.Variable(np.array(case["inputs"]["scores"])), np.array(case["inputs"]["targets"]) == 1
    with tf.GradientTape() as tape:
        value = RoadmapLoss(dtype="float64").sup_ap(scores, targets, ~targets)
    assert float(value) == pytest.approx(case["expected"]["loss"], rel=1e-9)
    np.testing.assert_allclose(tape.gradient(value, scores), case["expected"]["grad"]["scores"], rtol=1e-9, atol=1e-12)
    assert 1 - float(value) == pytest.approx(case["expected"]["ap"], rel=1e-9)


def test_published_average_precision_is_the_limit_of_a_narrow_step():
    case = next(case for case in CASES if case["name"] == "supap_from_scores")
    targets = np.array(case["inputs"]["targets"]) == 1
    exact = RoadmapLoss(tau=1e-4, rho=0.0, start=0.0, offset=1.0, dtype="float64")
    value = exact.sup_ap(tf.constant(case["inputs"]["scores"], "float64"), targets, ~targets)
    assert 1 - float(value) == pytest.approx(case["expected"]["true_ap"], rel=1e-12)


def test_row_wise_form_equals_the_form_over_classes():
    rng = np.random.default_rng(2)
    x, labels = rng.normal(size=(12, 3)), rng.integers(0, 4, 12)
    same, scores = labels[:, None] == labels[None], unit(x) @ unit(x).T
    for exclude_self in (False, True):
        loss = RoadmapLoss(w_cal=0.0, published_code=not exclude_self, normalize=False, tau=0.1, dtype="float64")
        mine = same & ~np.eye(12, dtype=bool) if exclude_self else same
        assert float(loss.sup_ap(scores, mine, ~same)) == pytest.approx(float(loss(unit(x), labels)), rel=1e-9)


@given(st.integers(1, 8), st.integers(1, 9), st.integers(0, 2**16))
def test_matches_reference_with_a_memory(rows, size, seed):
    rng = np.random.default_rng(seed)
    x, y = unit(rng.normal(size=(rows, 3))), unit(rng.normal(size=(size, 3)))
    labels, others = rng.integers(0, 3, rows), rng.integers(0, 3, size)
    scores, same, values = x @ y.T, labels[:, None] == others[None], []
    for q in range(rows):
        mine, foes = scores[q][same[q]], scores[q][~same[q]]
        ahead = [np.sum(mine >= score) for score in mine]
        wrong = [sum(step(foe - score) for foe in foes) for score in mine]
        if len(mine):
            values.append(np.mean([a / (a + w) for a, w in zip(ahead, wrong, strict=True)]))
    low, high = 0.9 - scores[same], scores[~same] - 0.6
    wanted = 1 - np.mean(values) if values else 0.0
    wanted += sum(np.mean(part[part > 0]) for part in (low, high) if np.any(part > 0))
    loss = RoadmapLoss(dtype="float64")
    references = References(same, ~same, y, others)
    assert float(loss(x, labels, references=references)) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("gap", [-0.3, -0.02, 0.004, 0.03, 0.2])
def test_gradient_is_the_slope_of_the_loss(gap):
    loss = RoadmapLoss(dtype="float64")
    scores, mine = tf.Variable([[0.1, 0.1 + gap]], dtype="float64"), np.array([[True, False]])
    with tf.GradientTape() as tape:
        value = loss.sup_ap(scores, mine, ~mine)
    low, high = (float(loss.sup_ap(tf.constant([[0.1, 0.1 + gap + h]], "float64"), mine, ~mine)) for h in (-1e-7, 1e-7))
    rise = (high - low) / 2e-7
    np.testing.assert_allclose(tape.gradient(value, scores), [[-rise, rise]], rtol=1e-5, atol=1e-8)


def scores_and_masks(seed, rows=3, columns=9):
    rng = np.random.default_rng(seed)
    same = rng.random((rows, columns)) < 0.4
    same[:, 0], same[:, 1] = True, False  # one of each kind at least
    return rng.uniform(-1, 1, (rows, columns)), same


@pytest.mark.parametrize(("tau", "rho", "offset"), [(0.01, 100.0, 1.44), (0.2, 10.0, None), (0.05, 0.0, None)])
def test_lies_between_0_and_1(tau, rho, offset):
    scores, same = scores_and_masks(0, rows=30)
    loss = RoadmapLoss(tau=tau, rho=rho, offset=offset, dtype="float64")
    assert 0 < float(loss.sup_ap(scores, same, ~same)) < 1
    apart = np.where(same, 0.9, 0.9 - 30 * tau) + np.random.default_rng(1).uniform(0, tau, scores.shape)
    assert float(loss.sup_ap(apart, same, ~same)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.3])
def test_with_sigmoids_as_steps_it_is_smooth_ap(temperature):
    """One item a class but the query itself, whose rank among positives no sigmoid can change."""
    x, labels = np.random.default_rng(3).normal(size=(6, 3)), np.arange(6)
    sigmoids = RoadmapLoss(tau=temperature, delta=3.0, start=0.0, w_cal=0.0, dtype="float64")  # no gap is above 2
    smooth = SmoothAPLoss(temperature, dtype="float64")
    assert float(sigmoids(x, labels)) == pytest.approx(float(smooth(x, labels)), rel=1e-9)


def test_narrow_step_gives_the_exact_average_precision():
    scores, same = scores_and_masks(2, rows=30)
    exact = RoadmapLoss(tau=1e-7, rho=0.0, start=0.0, offset=1.0, dtype="float64")
    wanted = []
    for row, mine in zip(scores, same, strict=True):
        hits = mine[np.argsort(-row)]
        wanted.append(np.mean((np.cumsum(hits) / np.arange(1, len(row) + 1))[hits]))
    assert 1 - float(exact.sup_ap(scores, same, ~same)) == pytest.approx(np.mean(wanted), rel=1e-5)


def test_a_constant_added_to_all_scores_changes_calibration_alone():
    scores, same = scores_and_masks(1)
    loss = RoadmapLoss(dtype="float64")
    moved = float(loss.sup_ap(scores + 0.25, same, ~same))
    assert moved == pytest.approx(float(loss.sup_ap(scores, same, ~same)), rel=1e-9)
    before, after = (float(loss._calibration(tf.constant(s), same, ~same)) for s in (scores, scores + 0.25))
    assert abs(before - after) > 0.01


@pytest.mark.parametrize(("tau", "rho"), [(0.01, 100.0), (0.2, 10.0), (0.1, 0.0)])
def test_raising_a_negative_never_lowers_the_loss(tau, rho):
    loss = RoadmapLoss(tau=tau, rho=rho, offset=None, dtype="float64")
    scores, same = scores_and_masks(3, rows=1)
    values = []
    for height in np.linspace(-1, 1, 21):
        scores[:, 1] = height  # a negative
        values.append(float(loss.sup_ap(scores, same, ~same)))
    assert np.all(np.diff(values) >= -1e-12)
    assert values[-1] > values[0]


def test_gradients_of_a_query_sum_to_zero_and_spare_undisputed_positives():
    scores, same = scores_and_masks(5)
    scores[:, 0] = 3.0  # a positive that no negative comes near
    x = tf.Variable(scores)
    with tf.GradientTape() as tape:
        value = RoadmapLoss(dtype="float64").sup_ap(x, same, ~same)
    gradient = tape.gradient(value, x).numpy()
    assert np.all(np.abs(gradient).max(axis=1) > 0.001)
    np.testing.assert_allclose(gradient.sum(axis=1), 0.0, atol=1e-12)
    np.testing.assert_allclose(gradient[:, 0], 0.0, atol=1e-12)


def test_calibration_is_zero_only_within_both_limits():
    same = np.array([[True, True, False, False]])
    loss = RoadmapLoss(alpha=0.9, beta=0.6, dtype="float64")
    costs = [
        float(loss._calibration(tf.constant([row], "float64"), same, ~same))
        for row in ([0.9, 0.95, 0.6, -1.0], [0.9, 0.8, 0.6, 0.0], [0.9, 0.95, 0.7, 0.0])
    ]
    assert costs == pytest.approx([0.0, 0.1, 0.1])


@given(st.integers(0, 2**16))
def test_mean_of_active_pairs_is_never_below_that_of_all(seed):
    scores, same = scores_and_masks(seed)
    active, everything = (
        float(RoadmapLoss(reduction=name, dtype="float64")._calibration(tf.constant(scores), same, ~same))
        for name in ("active", "all")
    )
    assert active >= everything - 1e-12


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"tau": 0}, "`tau` must be positive. Received: tau=0"),
        ({"rho": -1}, "`rho` must not be negative. Received: rho=-1"),
        ({"alpha": 0.5, "beta": 0.6}, "`alpha` must be above `beta`. Received: alpha=0.5, beta=0.6"),
        ({"reduction": "sum"}, "`reduction` must be 'active' or 'all'. Received: reduction='sum'"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        RoadmapLoss(**params)
