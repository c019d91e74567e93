"""SOPRCLoss: its moving sketches, its semi-variance, and a plain loop over anchors."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from anchorage.geometry import cosine_similarities
from anchorage.losses.soprc import SOPRCLoss, semi_variance
from anchorage.pairs.masks import pair_masks

CASES = {
    case["name"]: case
    for case in json.loads((Path(__file__).parents[2] / "data" / "vectors" / "18-soprc.json").read_text())
}
X, LABELS = np.random.default_rng(0).normal(size=(9, 3)), np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def sketch(scores, length):
    """Spread the sorted scores over `length` places, one by one."""
    s, m = sorted(scores), len(scores)
    before, after = (s[0], s[-1]) if m == 1 else (max(2 * s[0] - s[1], -1), min(2 * s[-1] - s[-2], 1))
    ext, k, out = [before, *s, after], math.ceil(length / m), []
    for r in range(m):
        for j in range(k):
            a, (low, here, high) = j / k, ext[r : r + 3]
            out.append(0.5 * (low + a * (here - low) + here + a * (high - here)))
    return np.array(out[:length])


def reference(x, labels, prior, tau1, tau2, beta, length):
    s, n = unit(x) @ unit(x).T, len(labels)
    positives = {a: [j for j in range(n) if j != a and labels[j] == labels[a]] for a in range(n)}
    memory = {c: np.arange(length) / length for c in set(labels)}
    for c in memory:
        fresh = [sketch(s[a, positives[a]], length) for a in range(n) if labels[a] == c and positives[a]]
        if fresh:
            memory[c] = (1 - beta) * memory[c] + beta * np.mean(fresh, axis=0)
    values = []
    for a in range(n):
        others = [j for j in range(n) if labels[j] != labels[a]]
        for i in positives[a] if others else []:
            u = s[a, i] - s[a, others]
            f = np.mean(np.where(u < 0, 1 - 2 * u / tau1, np.where(u <= tau1, (1 - u / tau1) ** 2, 0)))
            r = (1 + np.sum(np.tanh(np.maximum(0, memory[labels[a]] - s[a, i]) / (2 * tau2)))) / (length + 1)
            values.append((1 - prior) * f / ((1 - prior) * f + prior * r))
    return np.mean(values) if values else 0.0


@given(
    st.integers(1, 10),
    st.integers(1, 4),
    st.floats(0.01, 0.9),
    st.floats(0.05, 1.0),
    st.floats(0.05, 0.5),
    st.floats(0.0, 1.0),
    st.integers(1, 12),
    st.integers(0, 2**16),
)
def test_matches_reference(rows, classes, prior, tau1, tau2, beta, length, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    loss = SOPRCLoss(classes, prior, tau1, tau2, beta, length, w_var=0.0, dtype="float64")
    wanted = reference(x, labels, prior, tau1, tau2, beta, length)
    assert float(loss(x, labels)) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_priors_follow_the_sizes_of_the_classes():
    found = SOPRCLoss(3, prior_mul=0.1, class_counts=[20, 5, 10], dtype="float64")
    written = SOPRCLoss(3, class_prior=[0.1, 0.025, 0.05], dtype="float64")
    assert float(found(X, LABELS)) == pytest.approx(float(written(X, LABELS)), rel=1e-12)
    assert SOPRCLoss(3, class_counts=[20, 5, 10]).get_config()["class_counts"] is None  # offered, not asked for


@pytest.mark.parametrize("name", ["soprc_stop_gradient_last", "soprc_stop_gradient_mean"])
def test_published_sketches(name):
    case = CASES[name]
    params = {
        "tau1": 0.1,
        "tau2": 0.05,
        "beta": 0.5,
        "num_v": 5,
        "published_code": case["params"]["class_update"] == "last",
    }
    loss = SOPRCLoss(2, case["params"]["class_prior"], **params, dtype="float64")
    loss(np.array(case["inputs"]["embeddings"]), np.array(case["inputs"]["labels"]))
    np.testing.assert_allclose(loss.sketches, case["expected"]["v_after"], rtol=1e-6)


def test_configs_of_older_files_load():
    older = SOPRCLoss(2).get_config()
    del older["published_code"]
    assert SOPRCLoss.from_config({**older, "class_update": "mean"}).published_code is False
    assert SOPRCLoss.from_config({**older, "class_update": "last"}).published_code is True


def test_published_semi_variance():
    case = CASES["semivariance"]
    x = tf.Variable(np.array(case["inputs"]["embeddings"]))
    with tf.GradientTape() as tape:
        scores = cosine_similarities(x, x)
        value = semi_variance(scores, *pair_masks(np.array(case["inputs"]["labels"])), 1.0, 5.0)
    assert float(value) == pytest.approx(case["expected"]["loss"], rel=1e-9)
    np.testing.assert_allclose(tape.gradient(value, x), case["expected"]["grad"]["embeddings"], rtol=1e-9, atol=1e-12)


def test_sketches_of_absent_classes_and_outside_training_stay():
    loss = SOPRCLoss(4, num_v=5, beta=0.5)
    loss(X, LABELS, training=False)
    start = np.tile(np.arange(5) / 5, (4, 1))
    np.testing.assert_allclose(loss.sketches, start, rtol=1e-6)
    loss(X, LABELS, training=True)
    moved = np.any(~np.isclose(loss.sketches, start), axis=1)
    np.testing.assert_array_equal(moved, [True, True, True, False])


def test_new_sketch_replaces_or_leaves_the_old_one():
    for beta, same in [(0.0, True), (1.0, False)]:
        loss = SOPRCLoss(3, num_v=6, beta=beta, dtype="float64")
        loss(X, LABELS)
        z = unit(X)
        wanted = np.mean([sketch((z[a] @ z.T)[[j for j in (7, 8) if j != a]], 6) for a in (7, 8)], axis=0)
        np.testing.assert_allclose(loss.sketches[2], np.arange(6) / 6 if same else wanted, rtol=1e-6)


def false_over_true(near, far, sketch=(-1.0,), **params):
    """F / R where both anchors see their positive at cosine `near` and the one negative at `far`."""
    cosines = np.array([[1, near, far], [near, 1, far], [far, far, 1]])
    loss = SOPRCLoss(2, 0.5, beta=0.0, num_v=len(sketch), w_var=0.0, dtype="float64", **params)
    loss.build((None, 3), (None,))
    loss.sketches.assign([sketch] * 2)
    value = float(loss(np.linalg.cholesky(cosines), np.array([0, 0, 1])))
    return value / (1 - value)


def test_false_positive_surrogate_falls_and_bounds_the_step():
    gaps = np.array([-0.5, -0.2, -0.01, 0.02, 0.15, 0.21, 0.5])
    # the sketch lies below every score: R = 1 / 2
    found = np.array([false_over_true(0.2, 0.2 - gap, tau1=0.2) / 2 for gap in gaps])
    assert np.all(np.diff(found) <= 0)
    assert np.all(found >= (gaps < 0))
    np.testing.assert_allclose(found[-2:], 0.0, atol=1e-12)


def test_true_positive_surrogate_falls_and_stays_below_the_step():
    gaps = np.array([-0.7, -0.2, -0.03, -0.001, 0.001, 0.5, 1.3])
    false = 1 + 2 * 0.3 / 0.1  # u = -0.3
    found = np.array([2 * false / false_over_true(0.3, 0.6, [0.3 - gap], tau2=0.05) - 1 for gap in gaps])
    assert np.all(np.diff(found) <= 1e-12)
    assert np.all(found <= (gaps < 0) + 1e-12)
    assert np.all(found >= -1e-12)
    assert found[0] > 0.99


def test_recall_is_the_share_of_positives_that_score_higher():
    scores = np.random.default_rng(4).uniform(-0.5, 1.0, 400)
    for near in (0.1, 0.4, 0.75):
        recall = (1 + 2 * 0.1 / 0.1) / false_over_true(near, near + 0.1, scores, tau2=1e-7)
        assert recall == pytest.approx(np.mean(scores > near), abs=0.004)


def test_lies_between_0_and_1_and_is_0_for_separated_classes():
    for prior in (1e-6, 0.5):
        loss = SOPRCLoss(3, prior, w_var=0.0, dtype="float64")
        assert 0 < float(loss(X, LABELS)) < 1
    assert float(loss(np.eye(3)[LABELS], LABELS)) == 0.0  # cosines 1 and 0


def test_a_higher_prior_costs_less_and_a_sure_class_nothing():
    values = [
        float(SOPRCLoss(3, prior, w_var=0.0, dtype="float64")(X, LABELS)) for prior in (0.001, 0.1, 0.5, 0.9, 1 - 1e-9)
    ]
    assert np.all(np.diff(values) < 0)
    assert values[-1] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("published_code", [False, True])
def test_sketches_stay_among_the_cosines_and_never_fall(published_code):
    rng = np.random.default_rng(2)
    loss = SOPRCLoss(3, num_v=11, beta=0.7, published_code=published_code, dtype="float64")
    for _ in range(5):
        loss(rng.normal(size=(9, 3)), rng.permutation(LABELS))
    sketches = loss.sketches.numpy()
    assert np.all(np.abs(sketches) <= 1)
    assert np.all(np.diff(sketches, axis=1) >= -1e-12)


def test_classes_may_be_renamed_with_their_priors_and_sketches():
    order = np.array([2, 0, 1])
    plain = SOPRCLoss(3, [0.1, 0.3, 0.6], num_v=5, dtype="float64")
    renamed = SOPRCLoss(3, [0.6, 0.1, 0.3], num_v=5, dtype="float64")  # class order[k] is called k
    for x in np.random.default_rng(3).normal(size=(2, 9, 3)):
        assert float(renamed(x, np.argsort(order)[LABELS])) == pytest.approx(float(plain(x, LABELS)), rel=1e-12)
    np.testing.assert_allclose(renamed.sketches, plain.sketches.numpy()[order], rtol=1e-12)


def test_semi_variance_knows_no_shift_and_is_0_only_for_equal_scores():
    positives, negatives = pair_masks(LABELS)
    scores = unit(X) @ unit(X).T
    value = float(semi_variance(scores, positives, negatives, 1.0, 5.0))
    assert float(semi_variance(scores + 3.0, positives, negatives, 1.0, 5.0)) == pytest.approx(value, rel=1e-9)
    equal = np.where(positives, 0.75, -0.25)
    assert float(semi_variance(equal, positives, negatives, 1.0, 5.0)) == 0.0
    for i, j in ((0, 1), (0, 8)):  # one positive, one negative
        moved = equal.copy()
        moved[i, j] += 0.1
        assert float(semi_variance(moved, positives, negatives, 1.0, 5.0)) > 1e-6


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"tau1": 0}, "`tau1` must be positive. Received: tau1=0"),
        ({"num_v": 0}, "`num_v` must be a whole number, at least 1. Received: num_v=0"),
        ({"beta": 2}, r"`beta` must lie in \[0, 1\]. Received: beta=2"),
        ({"class_prior": [0.1, 0.2]}, r"`class_prior` must be one number in \(0, 1\), or 3 of them"),
        ({"class_prior": 1.0}, r"`class_prior` must be one number in \(0, 1\), or 3 of them"),
        ({"prior_mul": 1.0}, "`prior_mul` must lie between 0 and 1. Received: prior_mul=1.0"),
        ({"prior_mul": 0.1}, "`prior_mul` needs `class_counts`, 3 numbers, not all 0. Received: class_counts=None"),
        ({"prior_mul": 0.1, "class_counts": [5, 1]}, r"`class_counts`, 3 numbers, .* Received: class_counts=\[5, 1\]"),
        ({"prior_mul": 0.1, "class_counts": [0, 0, 0]}, r"not all 0. Received: class_counts=\[0, 0, 0\]"),
        ({"w_var": -1}, "`w_var` must not be negative. Received: w_var=-1"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        SOPRCLoss(3, **params)
