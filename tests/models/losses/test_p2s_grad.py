"""P2SGradLoss against a hand-worked number and a plain loop over the batch, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.p2s_grad import P2SGradLoss


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference(x, labels, proxies):
    cosines = units(x) @ units(proxies).T
    return np.mean(
        [(s - (k == label)) ** 2 for row, label in zip(cosines, labels, strict=True) for k, s in enumerate(row)]
    )


def test_hand_worked_batch():
    loss = P2SGradLoss(2)
    loss.build((None, 2), (None,))
    loss.proxies.assign([[0.0, 1.0], [3.0, 0.0]])
    assert float(loss(np.array([[2.0, 0.0]]), np.array([0]))) == pytest.approx((1 + 1) / 2)
    assert float(loss(np.array([[2.0, 0.0]]), np.array([1]))) == pytest.approx(0.0)


@given(st.integers(1, 10), st.integers(1, 4), st.integers(0, 2**16))
def test_matches_reference(rows, classes, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    loss = P2SGradLoss(classes, dtype="float64")
    loss.build((None, 3), (None,))
    proxies = rng.normal(size=loss.proxies.shape)
    loss.proxies.assign(proxies)
    assert float(loss(embeddings, labels)) == pytest.approx(reference(embeddings, labels, proxies), rel=1e-9)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"num_classes": 0}, "`num_classes` must be a whole number, at least 1. Received: num_classes=0"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        P2SGradLoss(**params)
