"""SOPRCLoss: its moving sketches, its semi-variance, and a plain loop over anchors."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.losses._batch import pair_masks
from models.losses.soprc import SOPRCLoss, semi_variance

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
    params = {"tau1": 0.1, "tau2": 0.05, "beta": 0.5, "num_v": 5, "class_update": case["params"]["class_update"]}
    loss = SOPRCLoss(2, case["params"]["class_prior"], **params, dtype="float64")
    loss(np.array(case["inputs"]["embeddings"]), np.array(case["inputs"]["labels"]))
    np.testing.assert_allclose(loss.sketches, case["expected"]["v_after"], rtol=1e-6)


def test_published_semi_variance():
    case = CASES["semivariance"]
    z = unit(np.array(case["inputs"]["embeddings"]))
    value = semi_variance(z @ z.T, *pair_masks(np.array(case["inputs"]["labels"])), 1.0, 5.0)
    assert float(value) == pytest.approx(case["expected"]["loss"], rel=1e-9)


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


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"tau1": 0}, "`tau1` must be positive. Received: tau1=0"),
        ({"num_v": 0}, "`num_v` must be a whole number, at least 1. Received: num_v=0"),
        ({"beta": 2}, r"`beta` must lie in \[0, 1\]. Received: beta=2"),
        ({"class_prior": [0.1, 0.2]}, r"`class_prior` must be one number in \(0, 1\), or 3 of them"),
        ({"class_prior": 1.0}, r"`class_prior` must be one number in \(0, 1\), or 3 of them"),
        ({"class_update": "first"}, "`class_update` must be 'mean' or 'last'. Received: class_update='first'"),
        ({"prior_mul": 1.0}, "`prior_mul` must lie between 0 and 1. Received: prior_mul=1.0"),
        ({"prior_mul": 0.1}, "`prior_mul` needs `class_counts`, 3 numbers, not all 0. Received: class_counts=None"),
        ({"prior_mul": 0.1, "class_counts": [5, 1]}, r"`class_counts`, 3 numbers, .* Received: class_counts=\[5, 1\]"),
        ({"prior_mul": 0.1, "class_counts": [0, 0, 0]}, r"not all 0. Received: class_counts=\[0, 0, 0\]"),
        ({"w_var": -1}, "`w_var` must not be negative. Received: w_var=-1"),
    ],
)
def test_wrong_values_are_told(params, text):
    with pytest.raises(ValueError, match=text):
        SOPRCLoss(3, **params)
