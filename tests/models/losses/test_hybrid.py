"""HybridLoss is its two members, added."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.contrastive import ContrastiveLoss
from anchorage.losses.hybrid import HybridLoss
from anchorage.losses.multi_similarity import MultiSimilarityLoss
from anchorage.losses.proxy_nca import ProxyNCALoss

X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
LABELS = np.array([0, 0, 1, 1, 2, 2])


def reference(x, labels, proxies, proxy_weight):
    """Multi-Similarity (2, 50, base 1) and Proxy-Anchor (32, 0.1), as loops over anchors and over classes."""
    x, proxies = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, proxies))
    s, pair, pull, push = x @ x.T, 0.0, [], []
    for i in range(len(x)):
        others = [j for j in range(len(x)) if j != i]
        pair += np.log1p(sum(np.exp(-2 * (s[i, j] - 1)) for j in others if labels[i] == labels[j])) / 2 / len(x)
        pair += np.log1p(sum(np.exp(50 * (s[i, j] - 1)) for j in others if labels[i] != labels[j])) / 50 / len(x)
    for c, proxy in enumerate(proxies):
        near, far = x[labels == c] @ proxy, x[labels != c] @ proxy
        pull += [np.log1p(np.sum(np.exp(-32 * (near - 0.1))))] if len(near) else []
        push.append(np.log1p(np.sum(np.exp(32 * (far + 0.1)))))
    return pair + proxy_weight * (np.mean(pull) + np.mean(push))


@given(st.integers(1, 8), st.integers(1, 4), st.floats(0, 2), st.booleans(), st.integers(0, 2**16))
def test_matches_reference(rows, classes, proxy_weight, with_heads, seed):
    rng = np.random.default_rng(seed)
    x, labels, proxies = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows), rng.normal(size=(classes, 3))
    pair = MultiSimilarityLoss(base=1.0, mining=False)
    weights = {"proxy_weight": proxy_weight, "head_weight": 0.5 if with_heads else 0.0}
    loss = HybridLoss(classes, pair=pair, **weights, dtype="float64")
    loss.build((None, 3), (None,))
    loss.proxies.assign(proxies)
    wanted = reference(x, labels, proxies, proxy_weight)
    heads = rng.normal(size=(rows, 2, 3))
    if with_heads:
        wanted += 0.5 * sum(reference(heads[:, place], labels, proxies, 0.0) for place in (0, 1))
    assert float(loss(x, labels, heads=heads)) == pytest.approx(wanted, rel=1e-8, abs=1e-10)


def test_is_the_sum_of_its_members():
    loss = HybridLoss(num_classes=3, proxy_weight=0.5)
    value = float(loss(X, LABELS))
    assert value == pytest.approx(float(loss.pair_loss(X, LABELS)) + 0.5 * float(loss.proxy_loss(X, LABELS)), rel=1e-6)


def test_combines_any_two_losses():
    loss = HybridLoss(pair=ContrastiveLoss(neg_margin=0.4), proxy=ProxyNCALoss(3))
    assert loss.pair_loss.neg_margin == 0.4
    assert np.isfinite(loss(X, LABELS))


def test_without_weight_the_proxies_get_no_gradient():
    loss = HybridLoss(num_classes=3, proxy_weight=0.0)
    with tf.GradientTape() as tape:
        value = loss(X, LABELS)
    assert not np.any(tape.gradient(value, loss.proxies.value))


def test_heads_have_the_pair_loss_too_if_they_weigh_anything():
    heads = np.stack([X, X[::-1]], axis=1)
    plain, loss = HybridLoss(num_classes=3), HybridLoss(num_classes=3, head_weight=0.5)
    loss(X, LABELS)
    plain(X, LABELS)
    loss.proxies.assign(plain.proxies)
    expected = float(plain(X, LABELS, heads=heads))
    assert expected == float(plain(X, LABELS))
    expected += 0.5 * sum(float(loss.pair_loss(rows, LABELS)) for rows in (X, X[::-1]))
    assert float(loss(X, LABELS, heads=heads)) == pytest.approx(expected, rel=1e-5)


def test_rejects_invalid_members():
    with pytest.raises(ValueError, match=r"`pair` must be a Keras layer.*Received: pair={'name': 'contrastive'}"):
        HybridLoss(num_classes=3, pair={"name": "contrastive"})
    with pytest.raises(ValueError, match=r"`num_classes` is needed for the losses inside by default"):
        HybridLoss()
