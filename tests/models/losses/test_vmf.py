"""Von Mises-Fisher distributions: published cases, Bessel functions from SciPy, and draws against their mean."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import hyp0f1, ive
from scipy.stats import beta, kstest

from anchorage.losses._vmf import _draw_beta, draw_vmf, log_normalizer, mean_resultant, place_draws

CASES = {
    case["name"]: case
    for case in json.loads((Path(__file__).parents[2] / "data" / "vectors" / "20-nivmf.json").read_text())
}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("row", CASES["log_normaliser_table"]["expected"]["rows"], ids=lambda row: f"{row['dim']}")
def test_published_normalisers(row):
    kappa, dim = np.array([row["kappa"]]), row["dim"]
    assert float(log_normalizer(kappa, dim, "debye3")[0]) == pytest.approx(row["debye3"], rel=1e-10)
    assert float(log_normalizer(kappa, dim)[0]) == pytest.approx(row["exact"], rel=1e-8, abs=1e-6)
    for name in ("debye3", "accurate"):
        relative = log_normalizer(kappa, dim, name, relative=True) - log_normalizer(kappa, dim, name)
        assert float(relative[0]) == pytest.approx(-float(log_normalizer(np.array([1e-9]), dim, name)[0]), rel=1e-9)
    assert float(mean_resultant(kappa, dim)[0]) == pytest.approx(row["mean_resultant"], rel=1e-6)
    if row["poly"] is not None:
        assert float(log_normalizer(kappa, dim, "poly")[0]) == pytest.approx(row["poly"], rel=1e-9)


@pytest.mark.parametrize("dim", [3, 4, 5, 10, 47, 48, 128, 512])
def test_normaliser_follows_the_bessel_function(dim):
    kappa = np.geomspace(0.01, 500, 30)
    nu = dim / 2 - 1
    log_bessel = np.log(np.maximum(ive(nu, kappa), 1e-300)) + kappa
    known = ive(nu, kappa) > 1e-290
    wanted = nu * np.log(kappa) - dim / 2 * np.log(2 * np.pi) - log_bessel
    np.testing.assert_allclose(np.array(log_normalizer(kappa, dim))[known], wanted[known], atol=1e-6)
    kappa = kappa[known]
    np.testing.assert_allclose(mean_resultant(kappa, dim), ive(nu + 1, kappa) / ive(nu, kappa), rtol=1e-6)


def test_published_draws_from_noise():
    case = CASES["vmf_sampler_from_noise"]
    z = np.array(case["inputs"]["embeddings"])
    noise = [np.array(case["inputs"][key]) for key in ("beta_draw", "unit_tangent")]
    found = place_draws(unit(z), np.linalg.norm(z, axis=1), noise[0][..., 0], noise[1])
    np.testing.assert_allclose(found, case["expected"]["samples"], rtol=1e-9)


@pytest.mark.parametrize("dim", [3, 4, 16, 512])
def test_proposals_are_beta_distributed(dim):
    draws = np.array(_draw_beta((4000,), dim, "float64", keras.random.SeedGenerator(5)))
    half = (dim - 1) / 2
    assert kstest(draws, beta(half, half).cdf).pvalue > 0.01


@pytest.mark.parametrize("dim", [3, 16, 128, 512])
@pytest.mark.parametrize("kappa", [1.0, 10.0, 20.0, 50.0, 200.0])
def test_mean_cosine_of_draws(dim, kappa):
    direction = unit(np.ones((1, dim), "float32"))
    draws = draw_vmf(tf.constant(direction), tf.constant([kappa]), 4000, keras.random.SeedGenerator(1)).numpy()[:, 0]
    np.testing.assert_allclose(np.linalg.norm(draws, axis=1), 1.0, atol=1e-3)
    cosines = draws @ direction[0]
    # the ratio of the Bessel functions as one of hypergeometric functions, which are numbers at 512 dimensions too
    wanted = kappa / dim * hyp0f1(dim / 2 + 1, kappa**2 / 4) / hyp0f1(dim / 2, kappa**2 / 4)
    assert np.mean(cosines) == pytest.approx(wanted, abs=4 * np.std(cosines) / np.sqrt(4000) + 1e-4)


def test_draws_without_concentration_are_uniform():
    direction = unit(np.ones((1, 8), "float32"))
    draws = draw_vmf(tf.constant(direction), tf.constant([1e-4]), 4000, keras.random.SeedGenerator(2)).numpy()[:, 0]
    np.testing.assert_allclose(draws.mean(axis=0), 0.0, atol=5 / np.sqrt(8 * 4000))
    np.testing.assert_allclose(draws.T @ draws / 4000, np.eye(8) / 8, atol=0.015)


@pytest.mark.parametrize("dim", [3, 128])
@pytest.mark.parametrize("kappa", [1.0, 50.0])
def test_more_concentration_draws_nearer_to_the_direction(dim, kappa):
    direction, kappa = tf.constant(unit(np.ones((1, dim)))), tf.Variable([kappa], dtype="float64")
    with tf.GradientTape() as tape:
        draws = draw_vmf(direction, kappa, 500, keras.random.SeedGenerator(3))
        cosine = tf.reduce_mean(tf.linalg.matvec(draws[:, 0], direction[0]))
    assert float(tape.gradient(cosine, kappa)[0]) > 1e-5


@pytest.mark.parametrize("dim", [3, 16, 128, 512])
def test_slope_of_the_normaliser_is_the_resultant_and_falls(dim):
    kappa = tf.Variable(np.geomspace(0.01, 500, 40))
    with tf.GradientTape() as tape:
        value = log_normalizer(kappa, dim)
    slope = tape.gradient(value, kappa).numpy()
    np.testing.assert_allclose(slope, -np.array(mean_resultant(kappa, dim)), rtol=1e-6, atol=1e-9)
    assert np.all(slope < 0)
    assert np.all(np.diff(slope) < 0)


# Mean cosines of draws of the published code, two digits; right are 0.085, 0.345, 0.731 and 0.021, 0.097, 0.344.
@pytest.mark.parametrize(
    ("dim", "kappa", "wanted"),
    [(128, 11, -0.48), (128, 50, 0.22), (128, 200, 0.722), (512, 11, -0.84), (512, 50, -0.44), (512, 200, 0.22)],
)
def test_published_proposals_are_off_where_they_are_known_to_be(dim, kappa, wanted):
    direction = unit(np.ones((1, dim), "float32"))
    seed = keras.random.SeedGenerator(1)
    draws = draw_vmf(tf.constant(direction), tf.constant([float(kappa)]), 4000, seed, published=True).numpy()[:, 0]
    assert np.mean(draws @ direction[0]) == pytest.approx(wanted, abs=0.006)


def test_published_proposals_are_the_exact_ones_up_to_a_concentration_of_ten():
    direction = tf.constant(unit(np.ones((1, 64), "float32")))
    exact, theirs = (
        np.array(draw_vmf(direction, tf.constant([9.5]), 50, keras.random.SeedGenerator(1), published))
        for published in (False, True)
    )
    np.testing.assert_allclose(theirs, exact, atol=1e-6)
