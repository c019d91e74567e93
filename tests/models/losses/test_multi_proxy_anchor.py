"""MultiProxyAnchorLoss against a plain loop over classes, and the limits the text states."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.multi_proxy_anchor import MultiProxyAnchorLoss


def with_proxies(loss, proxies):
    loss.build((None, proxies.shape[1]), (None,))
    loss.proxies.assign(proxies)
    return loss


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(x, labels, proxies, k, alpha, delta, gamma, tau_reg):
    s = (unit(x) @ unit(proxies).T).reshape(len(x), -1, k)
    weights = np.exp(s / gamma)
    s = np.sum(s * weights / weights.sum(-1, keepdims=True), axis=-1)
    classes, present = s.shape[1], sorted(set(labels))
    pull = np.mean([np.log1p(np.exp(-alpha * (s[labels == c, c] - delta)).sum()) for c in present])
    push = np.mean([np.log1p(np.exp(alpha * (s[labels != c, c] + delta)).sum()) for c in range(classes)])
    merging = 0.0
    for group in unit(proxies).reshape(classes, k, -1):
        for a in range(k):
            for b in range(a + 1, k):
                merging += np.sqrt(max(0.0, 2 - 2 * group[a] @ group[b]) + 1e-5)
    return pull + push + (tau_reg * merging / (classes * k * (k - 1)) if k > 1 else 0.0)


@given(
    st.integers(1, 8),
    st.integers(1, 5),
    st.integers(1, 3),
    st.floats(1.0, 40.0),
    st.floats(0.0, 0.5),
    st.floats(0.05, 2.0),
    st.sampled_from([0.0, 0.2]),
    st.integers(0, 2**16),
)
def test_matches_reference(rows, classes, k, alpha, delta, gamma, tau_reg, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 4)), rng.integers(0, classes, rows)
    proxies = rng.normal(size=(classes * k, 4))
    loss = with_proxies(MultiProxyAnchorLoss(classes, k, alpha, delta, gamma, tau_reg, dtype="float64"), proxies)
    wanted = reference(x, labels, proxies, k, alpha, delta, gamma, tau_reg)
    assert float(loss(x, labels)) == pytest.approx(wanted, rel=1e-8, abs=1e-10)


@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 3), st.floats(1.0, 40.0), st.integers(0, 2**16))
def test_data_anchor_matches_reference(rows, classes, k, alpha, seed):
    rng = np.random.default_rng(seed)
    x, labels, proxies = rng.normal(size=(rows, 4)), rng.integers(0, classes, rows), rng.normal(size=(classes * k, 4))
    s = (unit(x) @ unit(proxies).T).reshape(rows, classes, k)
    weights = np.exp(s / 0.1)
    s = np.sum(s * weights / weights.sum(-1, keepdims=True), axis=-1)
    costs = []
    for n, own in enumerate(labels):
        others = [c for c in range(classes) if c != own]
        costs.append(
            np.log1p(np.exp(-alpha * (s[n, own] - 0.2))) + np.log1p(np.exp(alpha * (s[n, others] + 0.2)).sum())
        )
    loss = MultiProxyAnchorLoss(classes, k, alpha, delta=0.2, variant="data_anchor", dtype="float64")
    assert float(with_proxies(loss, proxies)(x, labels)) == pytest.approx(np.mean(costs), rel=1e-8, abs=1e-10)


def test_copies_of_one_proxy_share_its_gradient():
    rng = np.random.default_rng(0)
    x, labels, proxies = rng.normal(size=(5, 4)), np.array([0, 0, 1, 1, 2]), rng.normal(size=(3, 4))
    one = with_proxies(MultiProxyAnchorLoss(3, 1, dtype="float64"), proxies)
    three = with_proxies(MultiProxyAnchorLoss(3, 3, dtype="float64"), np.repeat(proxies, 3, axis=0))
    gradients = []
    for loss in (one, three):
        with tf.GradientTape() as tape:
            value = loss(x, labels)
        gradients.append((float(value), tape.gradient(value, loss.proxies.value).numpy()))
    assert gradients[0][0] == pytest.approx(gradients[1][0], rel=1e-9)
    np.testing.assert_allclose(np.repeat(gradients[0][1] / 3, 3, axis=0), gradients[1][1], rtol=1e-8)


def value_and_slopes(loss, x, labels):
    """Value, and gradients of embeddings and proxies."""
    x = tf.Variable(x)
    with tf.GradientTape() as tape:
        value = loss(x, labels)
    return float(value), *(gradient.numpy() for gradient in tape.gradient(value, [x, loss.proxies.value]))


def test_lengths_do_not_matter_and_gradients_are_orthogonal():
    rng = np.random.default_rng(1)
    x, proxies, labels = rng.normal(size=(7, 4)), rng.normal(size=(6, 4)), np.array([0, 0, 1, 1, 2, 2, 2])
    loss = with_proxies(MultiProxyAnchorLoss(3, 2, alpha=8.0, dtype="float64"), proxies)
    value, of_x, of_proxies = value_and_slopes(loss, x, labels)
    for gradient, rows in ((of_x, x), (of_proxies, proxies)):
        assert np.abs(gradient).max() > 0.1
        np.testing.assert_allclose(np.sum(gradient * rows, axis=1), 0.0, atol=1e-12)
    loss.proxies.assign(proxies * rng.uniform(0.1, 10, (6, 1)))
    assert float(loss(x * rng.uniform(0.1, 10, (7, 1)), labels)) == pytest.approx(value, rel=1e-12)


def test_a_batch_twice_costs_more():
    # sums inside the logarithms, not means
    rng = np.random.default_rng(2)
    x, proxies, labels = rng.normal(size=(5, 4)), rng.normal(size=(3, 4)), np.array([0, 0, 1, 1, 2])
    loss = with_proxies(MultiProxyAnchorLoss(3, 1, dtype="float64"), proxies)
    assert float(loss(np.tile(x, (2, 1)), np.tile(labels, 2))) > float(loss(x, labels)) + 0.1


def test_proxy_of_an_absent_class_is_pushed_and_not_pulled():
    rng = np.random.default_rng(3)
    x, labels, alpha, delta = rng.normal(size=(5, 4)), np.array([0, 0, 1, 1, 1]), 8.0, 0.1
    proxies, other = rng.normal(size=(3, 4)), rng.normal(size=4)
    loss = with_proxies(MultiProxyAnchorLoss(3, 1, alpha, delta, dtype="float64"), proxies)
    value, _, of_proxies = value_and_slopes(loss, x, labels)
    length = np.linalg.norm(proxies[2])
    s = unit(x) @ proxies[2] / length
    pushed = np.exp(alpha * (s + delta))
    weights = pushed / (1 + pushed.sum())
    wanted = alpha / 3 * weights @ (unit(x) - s[:, None] * proxies[2] / length) / length
    assert np.abs(wanted).max() > 0.01
    np.testing.assert_allclose(of_proxies[2], wanted, rtol=1e-9)
    loss.proxies.assign(np.array([*proxies[:2], other]))
    moved = np.exp(alpha * (unit(x) @ unit(other) + delta))
    more = (np.log1p(moved.sum()) - np.log1p(pushed.sum())) / 3
    assert float(loss(x, labels)) - value == pytest.approx(more, rel=1e-9)


def test_sharp_limit_is_a_hinge_on_the_hardest_item_of_each_proxy():
    rng = np.random.default_rng(4)
    x, labels, proxies = rng.normal(size=(6, 4)), np.array([0, 0, 1, 1, 1, 1]), rng.normal(size=(3, 4))
    s, own = unit(x) @ unit(proxies).T, labels[:, None] == np.arange(3)
    pull = np.mean([max(0, 0.1 - s[own[:, c], c].min()) for c in (0, 1)])
    push = np.mean([max(0, 0.1 + s[~own[:, c], c].max()) for c in range(3)])
    loss = with_proxies(MultiProxyAnchorLoss(3, 1, alpha=1e5, delta=0.1, dtype="float64"), proxies)
    assert float(loss(x, labels)) / 1e5 == pytest.approx(pull + push, abs=1e-4)


def test_order_of_the_proxies_of_a_class_does_not_matter():
    rng = np.random.default_rng(6)
    x, labels, proxies = rng.normal(size=(6, 4)), np.array([0, 0, 1, 1, 2, 2]), rng.normal(size=(9, 4))
    loss = with_proxies(MultiProxyAnchorLoss(3, 3, tau_reg=0.2, dtype="float64"), proxies)
    value = float(loss(x, labels))
    loss.proxies.assign(proxies[[2, 0, 1, 3, 5, 4, 8, 7, 6]])
    assert float(loss(x, labels)) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"alpha": 0}, "`alpha` must be positive. Received: alpha=0"),
        ({"gamma": -1}, "`gamma` must be positive. Received: gamma=-1"),
        ({"delta": 2}, r"`delta` must lie in \[0, 1\]. Received: delta=2"),
        ({"variant": "both"}, "`variant` must be one of .*Received: variant='both'"),
        ({"tau_reg": -1}, "`tau_reg` must not be negative. Received: tau_reg=-1"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        MultiProxyAnchorLoss(num_classes=3, **params)
