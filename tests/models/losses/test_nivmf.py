"""NivMFLoss against published cases and densities written out for one point."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ive, logsumexp

from anchorage.geometry import cosine_similarities
from anchorage.losses._vmf import draw_vmf, log_normalizer
from anchorage.losses.nivmf import NivMFLoss, guide
from anchorage.losses.softmax import SoftmaxLoss

CASES = {
    case["name"]: case
    for case in json.loads((Path(__file__).parents[2] / "data" / "vectors" / "20-nivmf.json").read_text())
}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def make(classes, proxies, concentrations=None, **params):
    loss = NivMFLoss(classes, dtype="float64", **params)
    loss.build((None, proxies.shape[1]), (None,))
    loss.proxies.assign(proxies)
    if concentrations is not None:
        loss.concentrations.assign(concentrations)
    return loss


@pytest.mark.parametrize("name", ["el_nivmf_fixed_samples_scaled", "el_nivmf_fixed_samples_repo"])
def test_published_expected_likelihood(name):
    case = CASES[name]
    mu, kappa = (np.array(case["inputs"][key]) for key in ("mu", "kappa"))
    loss = make(2, mu, kappa, temp=0.5, published_code=name.endswith("repo"))
    loss._approximation = "debye3"  # the cases have three terms of the expansion at D = 3, where they are not exact
    labels = np.array(case["inputs"]["labels"], "int32")
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(loss.costs(tf.constant(case["inputs"]["samples"], "float64"), labels))
    of_mu, of_kappa = tape.gradient(value, [loss.proxies.value, loss.concentrations.value])
    assert float(value) == pytest.approx(case["expected"]["loss"], rel=1e-6)
    np.testing.assert_allclose(of_mu, case["expected"]["grad"]["mu"], rtol=1e-6)
    np.testing.assert_allclose(of_kappa, case["expected"]["grad"]["kappa"], rtol=1e-6)


def test_published_guidance():
    case = CASES["guidance"]
    x, mu = (tf.Variable(np.array(case["inputs"][key])) for key in ("embeddings", "mu"))
    with tf.GradientTape() as tape:
        cosines = cosine_similarities(x, mu)
        value = guide(cosines, np.array(case["inputs"]["labels"], "int32"))
    of_x, of_mu = tape.gradient(value, [x, mu])
    assert float(value) == pytest.approx(case["expected"]["loss"], rel=1e-9)
    np.testing.assert_allclose(of_x, case["expected"]["grad"]["embeddings"], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(of_mu, case["expected"]["grad"]["mu"], rtol=1e-9)


def test_published_code_has_the_published_samples():
    _, proxies, labels = batch(2, 128)
    values = [
        float(make(3, proxies, temp=0.5, samples=100, published_code=published)(50 * unit(proxies)[labels], labels))
        for published in (False, True)
    ]
    assert values[1] > 5 * values[0]  # scattered draws have less in common with their class


def test_draws_compile_with_xla():
    """Other draws than without, so the same value but for their scatter."""
    _, proxies, labels = batch(2, 16)
    z = 4 * unit(proxies)[labels]
    loss = make(3, proxies, temp=1.0, samples=2000)
    compiled = tf.function(lambda: loss(z, labels), jit_compile=True)
    assert float(compiled()) == pytest.approx(float(loss(z, labels)), rel=0.15)


def test_cosine_metric_is_a_softmax_on_cosines():
    rng = np.random.default_rng(0)
    z, proxies, labels = rng.normal(size=(6, 4)), rng.normal(size=(3, 4)), np.array([0, 1, 2, 0, 1, 2])
    softmax = SoftmaxLoss(3, temperature=0.5, normalize=True, normalize_weight=True, use_bias=False, dtype="float64")
    softmax.build((None, 4), (None,))
    softmax.proxies.assign(proxies)
    assert float(make(3, proxies, metric="cos", temp=0.5)(z, labels)) == pytest.approx(
        float(softmax(z, labels)), rel=1e-6
    )


def test_exact_density_integrates_to_one():
    # the density at D = 3 over a fine grid on the sphere, for two classes
    rng = np.random.default_rng(1)
    points = unit(rng.normal(size=(200_000, 3)))
    kappa = np.array([[3.0, 4.0, 5.0], [8.0, 6.0, 7.0]])
    mu = np.array([[1.0, 0.2, 0.1], [-0.2, 0.9, 0.8]])
    loss = make(2, mu, kappa, metric="nivmf", normaliser="exact", temp=1.0)
    density = np.array(loss.similarities(tf.constant(points)))
    density = density + float(log_normalizer(np.array([1e-9]), 3)[0])
    np.testing.assert_allclose(4 * np.pi * np.exp(density).mean(axis=0), 1.0, atol=0.02)


def batch(seed=0, dim=4):
    rng = np.random.default_rng(seed)
    return 3 * rng.normal(size=(6, dim)), rng.normal(size=(3, dim)), np.array([0, 1, 2, 0, 1, 2])


def log_c(kappa, dim):
    nu = dim / 2 - 1
    return nu * np.log(kappa) - dim / 2 * np.log(2 * np.pi) - np.log(ive(nu, kappa)) - kappa


@pytest.mark.parametrize(
    ("params", "similarity"),
    [
        ({"metric": "l2"}, lambda z, k, m: -np.sum((z - k * m) ** 2)),
        (
            {"metric": "ppk", "rho": 1.0},
            lambda z, k, m: log_c(norm(z), 4) + log_c(k, 4) - log_c(norm(z + k * m), 4),
        ),
        (
            {"metric": "ppk", "rho": 0.5},
            lambda z, k, m: (log_c(norm(z), 4) + log_c(k, 4)) / 2 - log_c(norm(z + k * m) / 2, 4),
        ),
        (
            {"metric": "neg_kl", "mean_resultant": "exact"},
            lambda z, k, m: (
                log_c(k, 4) - log_c(norm(z), 4) - ive(2, norm(z)) / ive(1, norm(z)) * (norm(z) - k * unit(z) @ m)
            ),
        ),
    ],
)
def test_isotropic_metrics_match_reference(params, similarity):
    z, proxies, labels = batch()
    kappa = np.array([2.0, 5.0, 9.0])
    h = np.array([[similarity(row, k, m) / 0.7 for k, m in zip(kappa, unit(proxies), strict=True)] for row in z])
    wanted = np.mean(np.log(np.exp(h).sum(axis=1)) - h[np.arange(6), labels])
    loss = make(3, proxies, kappa, temp=0.7, **params)
    assert float(loss(z, labels)) == pytest.approx(wanted, rel=1e-6)


def norm(x):
    return np.linalg.norm(x)


def log_density(x, k, m, normaliser, scale=True):
    """`log f(x)` of the non-isotropic distribution with unit direction `m`, written out for one point."""
    length, dim = norm(k * m), len(x)
    cosine = (k * x) @ (k * m) / norm(k * x) if scale else x @ (k * m)  # times |K m|
    factor = {
        "none": 0.0,
        "repo": np.sum(np.log(k)) - np.log(length),
        "exact": np.sum(np.log(k)) - dim * np.log(norm(k * x)),
    }
    return log_c(length, dim) + cosine + factor[normaliser]


SHAPES = st.integers(1, 6), st.integers(1, 4), st.integers(3, 8), st.sampled_from(["none", "repo", "exact"])


@given(*SHAPES, st.floats(0.3, 2.0), st.sampled_from([0.0, 0.7]), st.integers(0, 2**16))
def test_densities_match_reference(rows, classes, dim, normaliser, temp, guidance, seed):
    rng = np.random.default_rng(seed)
    z, labels = 3 * rng.normal(size=(rows, dim)), rng.integers(0, classes, rows)
    m, kappa = unit(rng.normal(size=(classes, dim))), rng.uniform(0.5, 12, (classes, dim))
    h = np.array([[log_density(u, k, c, normaliser) / temp for k, c in zip(kappa, m, strict=True)] for u in unit(z)])
    wanted = np.mean(logsumexp(h, axis=1) - h[np.arange(rows), labels])
    cosines = unit(z) @ m.T
    for y in labels:
        wanted += guidance / rows * np.log1p(np.sum(np.exp(-32 * (cosines[labels == y, y] - 0.1))))
    for c in range(classes):
        wanted += guidance / classes * np.log1p(np.sum(np.exp(32 * (cosines[labels != c, c] + 0.1))))
    loss = make(classes, 2 * m, kappa, metric="nivmf", temp=temp, normaliser=normaliser, guidance=guidance)
    assert float(loss(z, labels)) == pytest.approx(wanted, rel=1e-5, abs=1e-6)


@given(*SHAPES, st.booleans(), st.integers(0, 2**16))
def test_expected_likelihood_matches_reference(rows, classes, dim, normaliser, scale, seed):
    rng = np.random.default_rng(seed)
    draws = unit(rng.normal(size=(4, rows, dim)))
    m, kappa = unit(rng.normal(size=(classes, dim))), rng.uniform(0.5, 12, (classes, dim))
    loss = make(classes, 2 * m, kappa, normaliser=normaliser, temp=0.5, published_code=not scale)
    loss._approximation = "accurate"
    found = np.array(loss.similarities(tf.constant(draws)))
    uniform = float(log_normalizer(np.array([1e-9]), dim)[0])  # which the layer leaves out
    for n in range(rows):
        for c in range(classes):
            each = [(log_density(x, kappa[c], m[c], normaliser, scale) - uniform) / 0.5 for x in draws[:, n]]
            assert found[n, c] == pytest.approx(logsumexp(each) - np.log(4), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("normaliser", ["none", "exact"])
def test_expected_likelihood_of_many_draws_is_that_of_the_kernel(normaliser):
    # Isotropic, at temperature 1: the closed form is the product kernel with rho = 1.
    z, proxies, _ = batch(2, 16)
    kappa = np.full((3, 16), 6.0)
    sampled = make(3, proxies, kappa, metric="el_nivmf", temp=1.0, normaliser=normaliser)
    draws = draw_vmf(
        tf.constant(unit(z)), tf.constant(np.linalg.norm(z, axis=1)), 20_000, keras.random.SeedGenerator(2)
    )
    found = np.array(sampled.similarities(draws))
    kernel = make(3, proxies, np.full(3, 6.0), metric="ppk", temp=1.0)
    wanted = np.array(kernel.similarities(tf.constant(z)))
    np.testing.assert_allclose(found, wanted, atol=0.05)


def test_same_distribution_has_overlap_one():
    # Bhattacharyya at most 0 as a logarithm, 0 for equal distributions; the exact divergence likewise.
    z, proxies, _ = batch()
    z[0] = 5.0 * unit(proxies)[1]
    kappa = np.array([2.0, 5.0, 9.0])
    for params in ({"metric": "ppk", "rho": 0.5}, {"metric": "neg_kl", "mean_resultant": "exact"}):
        loss = make(3, proxies, kappa, temp=1.0, **params)
        similarities = np.array(loss.similarities(tf.constant(z)))
        assert similarities.max() <= 1e-6
        assert similarities[0, 1] == pytest.approx(0.0, abs=1e-6)


ISOTROPIC = [{"metric": "cos"}, {"metric": "l2"}, {"metric": "neg_kl", "mean_resultant": "exact"}]
ISOTROPIC += [{"metric": "ppk", "rho": 1.0}, {"metric": "ppk", "rho": 0.5}]
SPREAD = np.array([[2.0, 5.0, 9.0, 3.0], [1.0, 4.0, 2.0, 8.0], [6.0, 1.0, 3.0, 2.0]])


@pytest.mark.parametrize(
    ("params", "kappa"),
    [
        *((params, None if params["metric"] == "cos" else SPREAD[0, :3]) for params in ISOTROPIC),
        ({"metric": "nivmf"}, np.full((3, 4), 5.0)),
        ({"metric": "nivmf"}, SPREAD),
    ],
)
def test_rotation_matters_only_where_coordinates_differ(params, kappa):
    z, proxies, labels = batch(4)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(4, 4)))[0]
    plain, turned = (
        float(make(3, rows, kappa, temp=0.7, **params)(points, labels))
        for points, rows in ((z, proxies), (z @ turn, proxies @ turn))
    )
    if kappa is SPREAD:
        assert abs(turned - plain) > 0.01
    else:
        assert turned == pytest.approx(plain, rel=1e-9)


def test_length_of_embeddings_matters_but_for_cosines():
    z, proxies, labels = batch(4)
    for params in ISOTROPIC:
        short, long = (float(make(3, proxies, temp=0.7, **params)(scale * z, labels)) for scale in (1.0, 2.0))
        assert (short == pytest.approx(long, rel=1e-9)) == (params["metric"] == "cos")


@pytest.mark.parametrize("normaliser", ["repo", "exact", "none"])
def test_equal_concentrations_rank_classes_as_cosines_do(normaliser):
    z, proxies, _ = batch(6)
    loss = make(3, proxies, np.full((3, 4), 7.0), metric="nivmf", temp=1.0, normaliser=normaliser)
    found = np.array(loss.similarities(tf.constant(z)))
    np.testing.assert_array_equal(np.argsort(found), np.argsort(unit(z) @ unit(proxies).T))


@pytest.mark.parametrize("kappa", [0.5, 6.0, 40.0])
def test_exact_normaliser_and_equal_coordinates_give_the_isotropic_density(kappa):
    z, proxies, _ = batch(7)
    loss = make(3, proxies, np.full((3, 4), kappa), metric="nivmf", temp=1.0, normaliser="exact")
    found = np.array(loss.similarities(tf.constant(z)))
    uniform = -np.log(2 * np.pi**2)  # over the sphere in four dimensions, which the layer leaves out
    np.testing.assert_allclose(found + uniform, log_c(kappa, 4) + kappa * unit(z) @ unit(proxies).T, rtol=1e-5)


@pytest.mark.parametrize("rho", [1.0, 0.5])
def test_kernels_are_symmetric_in_image_and_proxy(rho):
    z, proxies, _ = batch(8)
    kappa = np.array([2.0, 5.0, 9.0])

    def similarities(points, directions, lengths):
        loss = make(len(directions), directions, lengths, metric="ppk", rho=rho, temp=1.0)
        return np.array(loss.similarities(tf.constant(points)))

    there = similarities(z, proxies, kappa)
    back = similarities(kappa[:, None] * unit(proxies), z, np.linalg.norm(z, axis=1))
    np.testing.assert_allclose(back.T, there, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("metric", ["nivmf", "el_nivmf"])
def test_a_constant_added_to_all_densities_changes_nothing(metric, monkeypatch):
    z, proxies, labels = batch(9)
    loss, same = (make(3, proxies, SPREAD, metric=metric, temp=0.5) for _ in range(2))
    of_all = loss._log_c
    monkeypatch.setattr(loss, "_log_c", lambda *args: of_all(*args) + 868.0)
    assert float(loss(z, labels)) == pytest.approx(float(same(z, labels)), rel=1e-9)


def test_draws_move_on_and_start_again_with_the_seed():
    z, proxies, labels = batch()
    first, second, other = (make(3, proxies, temp=0.5, seed=seed) for seed in (7, 7, 8))
    values = [float(first(z, labels)) for _ in range(3)]
    assert values == [float(second(z, labels)) for _ in range(3)]
    assert len(set(values)) == 3
    assert float(other(z, labels)) != values[0]


def test_published_code_takes_its_quadratic_for_the_normalizer():
    # log C = 127 - 0.01909 k - 0.003355 k^2 at D = 128, for r = |K m| = 20 and 40.
    directions = np.ones((2, 128)) / np.sqrt(128)
    kappa = np.array([[20.0], [40.0]]) * np.ones((2, 128))
    loss = make(2, directions, kappa, metric="nivmf", normaliser="none", temp=1.0, published_code=True)
    h = np.array(loss.similarities(tf.constant(directions[:1])))[0]
    assert h[1] - h[0] == pytest.approx(20 - 0.01909 * 20 - 0.003355 * (40**2 - 20**2), rel=1e-6)


def test_options_of_an_older_config():
    config = NivMFLoss(3).get_config()
    del config["published_code"]
    older = {"log_c": "accurate", "sampler_b": "exact", "scale_sample_by_kappa": True}
    assert not NivMFLoss.from_config({**config, **older}).published_code
    older = {"log_c": "poly", "sampler_b": "repo", "scale_sample_by_kappa": False}
    assert NivMFLoss.from_config({**config, **older}).published_code
    with pytest.raises(ValueError, match=r"NivMFLoss no longer takes \['sampler_b'\]"):
        NivMFLoss.from_config({**config, "sampler_b": "repo"})


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"metric": "dot"}, "`metric` must be one of .*Received: metric='dot'"),
        ({"temp": 0}, "`temp` must be positive. Received: temp=0"),
        ({"concentration": 0.01}, "`concentration` must be at least 0.1. Received: concentration=0.01"),
        ({"normaliser": "all"}, "`normaliser` must be one of .*Received: normaliser='all'"),
        ({"samples": 0}, "`samples` must be a whole number, at least 1. Received: samples=0"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        NivMFLoss(3, **params)
