"""Distances and masked log-sum-exps against NumPy, and their gradients at the edges."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from anchorage.geometry import MEASURES, find_measure, masked_log1p_sum_exp, masked_logsumexp, unit_rows


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 4)), rng.normal(size=(3, 4))


@pytest.mark.parametrize(
    ("name", "oracle"),
    [
        ("euclidean", lambda a, b: cdist(a, b)),
        ("squared_euclidean", lambda a, b: cdist(a, b, "sqeuclidean")),
        ("cosine", lambda a, b: 1 - cdist(a, b, "cosine")),
        ("dot", lambda a, b: a @ b.T),
        ("manhattan", lambda a, b: cdist(a, b, "cityblock")),
        ("snr", lambda a, b: np.var(a[:, None] - b[None], axis=2, ddof=1) / np.var(a, axis=1, ddof=1)[:, None]),
    ],
)
def test_measures_equal_their_oracles(rows, name, oracle):
    np.testing.assert_allclose(find_measure(name).matrix(*rows), oracle(*rows), rtol=1e-10)


@pytest.mark.parametrize("name", sorted(MEASURES))
@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_gradient_is_finite_where_points_coincide(name, fill):
    points = tf.fill((3, 4), fill)
    with tf.GradientTape() as tape:
        tape.watch(points)
        value = tf.reduce_sum(find_measure(name).matrix(points, points))
    assert np.isfinite(tape.gradient(value, points)).all()


def test_gradient_of_the_manhattan_distance(rows):
    a, b = map(tf.Variable, rows)
    weights = np.random.default_rng(1).normal(size=(5, 3))

    @tf.function(jit_compile=True)
    def compiled():
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(weights * find_measure("manhattan").matrix(a, b))
        return tape.gradient(value, [a, b])

    signs = np.sign(rows[0][:, None] - rows[1][None]) * weights[..., None]
    for found, wanted in zip(compiled(), (signs.sum(axis=1), -signs.sum(axis=0)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_unit_rows_keep_a_zero_row_and_survive_extreme_lengths():
    x = np.array([[3.0, 4.0], [0.0, 0.0], [3e-9, 4e-9], [3e15, 4e15]], "float32")
    np.testing.assert_allclose(unit_rows(x), [[0.6, 0.8], [0.0, 0.0], [0.6, 0.8], [0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize("shift", [-500.0, 0.0, 500.0])
def test_masked_log_sum_exps(shift):
    x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]], "float32") + np.float32(shift)
    mask = np.array([[True, False, True], [False, False, False], [True, True, True]])
    wanted = [logsumexp(row[keep]) if keep.any() else 0.0 for row, keep in zip(x.astype("float64"), mask, strict=True)]
    np.testing.assert_allclose(masked_logsumexp(x, mask, axis=1), wanted, rtol=1e-6, atol=1e-30)
    wanted = [logsumexp([0.0, *row[keep]]) for row, keep in zip(x.astype("float64"), mask, strict=True)]
    np.testing.assert_allclose(masked_log1p_sum_exp(x, mask, axis=1), wanted, rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(masked_log1p_sum_exp(x.T, mask.T, axis=0), wanted, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("function", [masked_logsumexp, masked_log1p_sum_exp])
def test_empty_set_has_no_gradient(function):
    x = tf.constant([[1.0, 2.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x, tf.constant([[False, False]]), axis=1)
    assert float(value[0]) == 0.0
    assert not np.any(tape.gradient(value, x))


def test_unknown_measure():
    with pytest.raises(ValueError, match=r"`distance` must be one of \['cosine', .*Received: distance='l1'"):
        find_measure("l1")
