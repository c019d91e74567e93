"""MultiProxyAnchorLoss against a plain loop over classes, and the limits the text states."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from models.losses.multi_proxy_anchor import MultiProxyAnchorLoss


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
def test_wrong_values_are_told(params, text):
    with pytest.raises(ValueError, match=text):
        MultiProxyAnchorLoss(num_classes=3, **params)
