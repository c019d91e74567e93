"""ProxyNCALoss against a plain loop over proxies, and the identities of the papers."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.proxy_nca import ProxyNCALoss


def with_proxies(loss, proxies):
    loss.build((None, proxies.shape[1]), (None,))
    loss.proxies.assign(proxies)
    return loss


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(x, labels, proxies, per_class, scale_x, scale_p, include_positive, label_smoothing):
    x, proxies = scale_x * unit(x), scale_p * unit(proxies)
    total = 0.0
    for row, label in zip(x, labels, strict=True):
        d = np.sum((row - proxies) ** 2, axis=1).reshape(-1, per_class)
        own, others = d[label].min(), np.delete(d, label, axis=0).ravel()
        summed = np.exp(-others).sum() + (np.exp(-own) if include_positive else 0.0)
        target = (1 - label_smoothing) * own + label_smoothing * others.mean()
        total += target + np.log(summed)
    return total / len(x)


@given(
    st.integers(1, 8),
    st.integers(2, 5),
    st.integers(1, 3),
    st.floats(0.5, 3.0),
    st.floats(0.5, 3.0),
    st.sampled_from([(False, 0.0), (True, 0.0), (True, 0.2)]),
    st.integers(0, 2**16),
)
def test_matches_reference(rows, classes, per_class, scale_x, scale_p, form, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 4)), rng.integers(0, classes, rows)
    proxies = rng.normal(size=(classes * per_class, 4))
    loss = with_proxies(ProxyNCALoss(classes, per_class, scale_x, scale_p, *form, dtype="float64"), proxies)
    wanted = reference(x, labels, proxies, per_class, scale_x, scale_p, *form)
    assert float(loss(x, labels)) == pytest.approx(wanted, rel=1e-8, abs=1e-10)


def test_probability_form_is_cross_entropy_on_cosines():
    rng = np.random.default_rng(0)
    x, proxies, labels = rng.normal(size=(6, 4)), rng.normal(size=(3, 4)), np.array([0, 1, 2, 0, 1, 2])
    logits = 2 * 2.0**2 * unit(x) @ unit(proxies).T
    wanted = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(6), labels])
    loss = with_proxies(ProxyNCALoss(3, scale_x=2.0, scale_p=2.0, include_positive=True, dtype="float64"), proxies)
    assert float(loss(x, labels)) == pytest.approx(wanted, rel=1e-9)


@given(st.integers(1, 8), st.integers(2, 5), st.integers(1, 3), st.booleans(), st.integers(0, 2**16))
def test_dynamic_assignment_takes_the_class_of_the_nearest_proxy(rows, classes, per_class, include_positive, seed):
    rng = np.random.default_rng(seed)
    x, proxies = rng.normal(size=(rows, 4)), rng.normal(size=(classes * per_class, 4))
    nearest = np.argmax(unit(x) @ unit(proxies).T, axis=1) // per_class
    params = {"include_positive": include_positive, "assignment": "dynamic", "dtype": "float64"}
    loss = with_proxies(ProxyNCALoss(classes, per_class, **params), proxies)
    wanted = reference(x, nearest, proxies, per_class, 3.0, 3.0, include_positive, 0.0)
    unknown = np.full(rows, 2**31 - 1)  # labels say nothing
    assert float(loss(x, unknown)) == pytest.approx(wanted, rel=1e-8, abs=1e-10)


def test_paper_form_and_probability_form_of_an_item():
    rng = np.random.default_rng(3)
    proxies, x, label = rng.normal(size=(4, 3)), rng.normal(size=(1, 3)), np.array([2])
    paper = float(with_proxies(ProxyNCALoss(4, dtype="float64"), proxies)(x, label))
    ours = float(with_proxies(ProxyNCALoss(4, include_positive=True, dtype="float64"), proxies)(x, label))
    assert ours == pytest.approx(np.log1p(np.exp(paper)), rel=1e-9)


def test_proxy_nca_plus_plus_settings():
    # Temperature 1/9 on squared distances of unit vectors, the own proxy in the sum, no smoothing, proxies N(0, 1) / 8.
    loss = ProxyNCALoss(50, include_positive=True)
    loss.build((None, 200), (None,))
    assert np.std(loss.proxies) == pytest.approx(1 / 8, rel=0.02)
    x, labels = np.random.default_rng(1).normal(size=(6, 200)), np.arange(6)
    d = np.sum((unit(x)[:, None] - unit(np.array(loss.proxies))[None]) ** 2, axis=2)
    logits = -d / (1 / 9)
    wanted = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(6), labels])
    assert float(loss(x, labels)) == pytest.approx(wanted, rel=1e-5)


def test_equal_proxies_give_the_log_of_the_number_of_classes():
    rng = np.random.default_rng(2)
    x, proxies, labels = rng.normal(size=(6, 3)), rng.normal(size=(4, 3)), np.array([0, 1, 2, 3, 0, 1])
    params = {"include_positive": True, "dtype": "float64"}
    equal = with_proxies(ProxyNCALoss(4, **params), np.tile(proxies[:1], (4, 1)))
    assert float(equal(x, labels)) == pytest.approx(np.log(4), rel=1e-9)
    hot = with_proxies(ProxyNCALoss(4, scale_x=1e-3, scale_p=1e-3, **params), proxies)  # a temperature of a million
    assert float(hot(x, labels)) == pytest.approx(np.log(4), rel=1e-5)


def test_length_of_embeddings_does_not_matter():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(6, 4)).astype("float32"), np.array([0, 1, 2, 0, 1, 2])
    loss = ProxyNCALoss(3)
    assert float(loss(x, labels)) == pytest.approx(float(loss(100 * x, labels)), rel=1e-5)


def test_one_class_alone_costs_nothing():
    assert float(ProxyNCALoss(1)(np.ones((2, 3), "float32"), np.array([0, 0]))) == 0.0


@given(st.integers(2, 6), st.floats(0.3, 3.0), st.floats(0.3, 3.0), st.booleans(), st.integers(0, 2**16))
def test_probability_form_lies_between_0_and_its_bound(classes, scale_x, scale_p, worst, seed):
    """The bound is met by an embedding opposite to its own proxy and equal to all others."""
    rng = np.random.default_rng(seed)
    proxies, x, labels = rng.normal(size=(classes, 4)), rng.normal(size=(7, 4)), rng.integers(0, classes, 7)
    if worst:
        labels[:] = classes - 1
        x = np.tile(x[:1], (7, 1))
        proxies = np.concatenate([np.tile(2 * x[:1], (classes - 1, 1)), -x[:1]])
    loss = with_proxies(ProxyNCALoss(classes, 1, scale_x, scale_p, include_positive=True, dtype="float64"), proxies)
    value = float(loss(x, labels))
    bound = np.log1p((classes - 1) * np.exp((scale_x + scale_p) ** 2 - (scale_x - scale_p) ** 2))
    assert 0 <= value <= bound * (1 + 1e-9)
    if worst:
        assert value == pytest.approx(bound, rel=1e-9)


FORMS = [{}, {"include_positive": True}, {"include_positive": True, "label_smoothing": 0.2}]


@pytest.mark.parametrize("form", FORMS)
def test_classes_and_proxies_may_be_renamed_together(form):
    rng = np.random.default_rng(4)
    x, proxies, labels, order = rng.normal(size=(7, 3)), rng.normal(size=(4, 3)), rng.integers(0, 4, 7), [2, 0, 3, 1]
    value = float(with_proxies(ProxyNCALoss(4, **form, dtype="float64"), proxies)(x, labels))
    renamed = with_proxies(ProxyNCALoss(4, **form, dtype="float64"), proxies[order])
    assert float(renamed(x, np.argsort(order)[labels])) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_is_orthogonal_to_its_vector_and_lengths_do_not_matter(form):
    rng = np.random.default_rng(5)
    x, proxies, labels = tf.Variable(rng.normal(size=(7, 3))), rng.normal(size=(4, 3)), rng.integers(0, 4, 7)
    loss = with_proxies(ProxyNCALoss(4, **form, dtype="float64"), proxies)
    with tf.GradientTape() as tape:
        value = loss(x, labels)
    of_x, of_proxies = tape.gradient(value, [x, loss.proxies.value])
    for gradient, rows in ((of_x, x.numpy()), (of_proxies, proxies)):
        assert np.abs(gradient).max() > 0.1
        np.testing.assert_allclose(np.sum(gradient * rows, axis=1), 0.0, atol=1e-12)
    loss.proxies.assign(proxies * rng.uniform(0.1, 10, (4, 1)))
    assert float(loss(x * rng.uniform(0.1, 10, (7, 1)), labels)) == pytest.approx(float(value), rel=1e-12)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"num_classes": 0}, "`num_classes` must be a whole number, at least 1. Received: num_classes=0"),
        (
            {"num_classes": 3, "proxies_per_class": 0},
            "`proxies_per_class` must be a whole number, at least 1",
        ),
        ({"num_classes": 3, "scale_x": 0}, "`scale_x` must be positive. Received: scale_x=0"),
        (
            {"num_classes": 3, "include_positive": True, "label_smoothing": 1.0},
            r"`label_smoothing` must lie in \[0, 1\). Received: label_smoothing=1.0",
        ),
        ({"num_classes": 3, "label_smoothing": 0.1}, "`label_smoothing` needs include_positive=True"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        ProxyNCALoss(**params)
