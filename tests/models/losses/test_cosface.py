"""CosFaceLoss against a hand-worked number and a plain loop over the batch, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.cosface import CosFaceLoss


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cross_entropy(logits, labels):
    return np.mean([np.log(np.sum(np.exp(row))) - row[label] for row, label in zip(logits, labels, strict=True)])


def reference(x, labels, proxies, margin, scale):
    logits = units(x) @ units(proxies).T
    logits[np.arange(len(x)), labels] -= margin
    return cross_entropy(scale * logits, labels)


def test_hand_worked_batch():
    loss = CosFaceLoss(2, margin=0.5, scale=2.0)
    loss.build((None, 2), (None,))
    loss.proxies.assign([[0.0, 1.0], [3.0, 0.0]])
    # own cosine 0 less a half, other cosine 1: logits -1 and 2
    assert float(loss(np.array([[2.0, 0.0]]), np.array([0]))) == pytest.approx(np.log1p(np.exp(3)), rel=1e-5)


@given(st.integers(1, 10), st.integers(1, 4), st.floats(0.0, 1.0), st.floats(1.0, 32.0), st.integers(0, 2**16))
def test_matches_reference(rows, classes, margin, scale, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    loss = CosFaceLoss(classes, margin, scale, dtype="float64")
    loss.build((None, 3), (None,))
    proxies = rng.normal(size=loss.proxies.shape)
    loss.proxies.assign(proxies)
    wanted = reference(embeddings, labels, proxies, margin, scale)
    assert float(loss(embeddings, labels)) == pytest.approx(wanted, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"margin": -1}, "`margin` must not be negative. Received: margin=-1"),
        ({"scale": 0}, "`scale` must be positive"),
        ({"reducer": "median"}, "`reducer` must be one of"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        CosFaceLoss(num_classes=3, **params)
