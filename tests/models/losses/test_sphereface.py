"""SphereFaceLoss against a hand-worked number and a plain loop over the batch, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.sphereface import SphereFaceLoss


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cross_entropy(logits, labels):
    return np.mean([np.log(np.sum(np.exp(row))) - row[label] for row, label in zip(logits, labels, strict=True)])


def reference(x, labels, proxies, margin, scale, weight_lengths):
    cosines = units(x) @ units(proxies).T
    for row, label in zip(cosines, labels, strict=True):
        angle = np.arccos(row[label])
        k = np.floor(margin * angle / np.pi)
        row[label] = (-1) ** k * np.cos(margin * angle) - 2 * k
    lengths = np.linalg.norm(x, axis=1)[:, None] * (np.linalg.norm(proxies, axis=1) if weight_lengths else 1.0)
    return cross_entropy(scale * lengths * cosines, labels)


def test_hand_worked_batch():
    loss = SphereFaceLoss(2, margin=2)
    loss.build((None, 2), (None,))
    loss.proxies.assign([[0.0, 1.0], [3.0, 0.0]])
    # own angle 90 degrees: k = 1, -cos(180 degrees) - 2 = -1, times the length 2; other logit 2
    assert float(loss(np.array([[2.0, 0.0]]), np.array([0]))) == pytest.approx(np.log1p(np.exp(4)), rel=1e-5)


@given(
    st.integers(1, 10), st.integers(1, 4), st.integers(1, 5), st.floats(0.5, 3.0), st.booleans(), st.integers(0, 2**16)
)
def test_matches_reference(rows, classes, margin, scale, weight_lengths, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    loss = SphereFaceLoss(classes, margin, scale, weight_lengths, dtype="float64")
    loss.build((None, 3), (None,))
    proxies = rng.normal(size=loss.proxies.shape)
    loss.proxies.assign(proxies)
    wanted = reference(embeddings, labels, proxies, margin, scale, weight_lengths)
    assert float(loss(embeddings, labels)) == pytest.approx(wanted, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"margin": 1.5}, "`margin` must be an integer. Received: margin=1.5"),
        ({"scale": 0}, "`scale` must be positive"),
        ({"reducer": "median"}, "`reducer` must be one of"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        SphereFaceLoss(num_classes=3, **params)
