"""HybridLoss is its two members, added."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from anchorage.errors import UsageError
from anchorage.losses.hybrid import HybridLoss

X = np.random.default_rng(0).normal(size=(6, 3)).astype("float32")
LABELS = np.array([0, 0, 1, 1, 2, 2])
VECTORS = Path(__file__).parents[2] / "data" / "vectors" / "07-multi-head-global-local.json"


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
    pair = {"name": "multi_similarity", "params": {"base": 1.0, "mining": False}}
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


def test_the_printed_sign_never_costs_less():
    """With the sign of `sigma` that accounts of the paper print, negatives count from -sigma on instead of sigma."""

    def pair(**params):
        return {"name": "multi_similarity", "params": {"base": 0.5, "mining": False, **params}}

    minus, plus = (HybridLoss(num_classes=3, pair=pair(negative_base=base)).pair_loss for base in (0.5, -0.5))
    plain = HybridLoss(num_classes=3, pair=pair()).pair_loss
    for seed in range(5):
        rows = np.random.default_rng(seed).normal(size=(6, 3)).astype("float32")
        assert float(plus(rows, LABELS)) > float(minus(rows, LABELS)) == pytest.approx(float(plain(rows, LABELS)))


def test_printed_form_of_the_docstring():
    case = next(found for found in json.loads(VECTORS.read_text()) if found["name"] == "hybrid_printed_plus_sigma")
    params = {"alpha": 2.0, "beta": 50.0, "base": 1.0, "negative_base": -1.0, "mining": False}
    loss = HybridLoss(num_classes=3, pair={"name": "multi_similarity", "params": params}, dtype="float64")
    loss.build((None, 2), (None,))
    loss.proxies.assign(case["inputs"]["weights"]["W"])
    value = loss(np.array(case["inputs"]["embeddings"]), np.array(case["inputs"]["labels"]))
    assert float(value) == pytest.approx(3.5261998910, rel=1e-9)


def test_any_two_losses():
    pair, proxy = {"name": "contrastive", "params": {"neg_margin": 0.4}}, {"name": "proxy_nca"}
    loss = HybridLoss(num_classes=3, pair=pair, proxy=proxy)
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


def test_wrong_members_are_told():
    with pytest.raises(ValueError, match=r"Expected a loss as {'name': ..., 'params': {...}}. Received: {'nam"):
        HybridLoss(num_classes=3, pair={"nam": "contrastive"})
    with pytest.raises(UsageError, match="Unknown name 'contrastiv'"):
        HybridLoss(num_classes=3, pair={"name": "contrastiv"})
    with pytest.raises(UsageError, match=r"'multi_proxy_anchor' needs \['num_classes'\]"):
        HybridLoss()
