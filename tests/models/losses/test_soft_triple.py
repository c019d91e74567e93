"""SoftTripleLoss against a hand-worked number and a plain loop over the batch, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.soft_triple import SoftTripleLoss


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cross_entropy(logits, labels):
    return np.mean([np.log(np.sum(np.exp(row))) - row[label] for row, label in zip(logits, labels, strict=True)])


def reference(x, labels, proxies, count, la, gamma, margin, tau):
    centers = units(proxies).reshape(-1, count, 3)
    logits = np.zeros((len(x), len(centers)))
    for i, row in enumerate(units(x)):
        for k, own in enumerate(centers):
            s = own @ row
            weights = np.exp(s / gamma) / np.exp(s / gamma).sum()
            logits[i, k] = la * (weights @ s - margin * (k == labels[i]))
    gaps = [np.sqrt(max(2 - 2 * own[j] @ own[k], 1e-12)) for own in centers for k in range(count) for j in range(k)]
    spread = tau * sum(gaps) / (len(centers) * count * (count - 1)) if count > 1 else 0.0
    return cross_entropy(logits, labels) + spread


def test_hand_worked_batch():
    loss = SoftTripleLoss(2, centers_per_class=2, la=2.0, gamma=1.0, margin=0.0, tau=4.0)
    loss.build((None, 2), (None,))
    loss.proxies.assign([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
    # class 0: cosine 0; class 1: cosines 1 and -1 softly joined: tanh(1). Merging: 4 (0 + 2) / (2 * 2)
    wanted = np.log1p(np.exp(2 * np.tanh(1.0))) + 2.0
    assert float(loss(np.array([[5.0, 0.0]]), np.array([0]))) == pytest.approx(wanted, rel=1e-5)


@given(
    st.integers(1, 10),
    st.integers(1, 4),
    st.integers(1, 3),
    st.floats(1.0, 20.0),
    st.floats(0.1, 1.0),
    st.floats(0, 0.5),
    st.integers(0, 2**16),
)
def test_matches_reference(rows, classes, count, la, gamma, margin, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    loss = SoftTripleLoss(classes, count, la, gamma, margin, tau=0.2, dtype="float64")
    loss.build((None, 3), (None,))
    proxies = rng.normal(size=loss.proxies.shape)
    loss.proxies.assign(proxies)
    wanted = reference(embeddings, labels, proxies, count, la, gamma, margin, 0.2)
    assert float(loss(embeddings, labels)) == pytest.approx(wanted, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"gamma": 0}, "`gamma` must be positive"),
        ({"tau": -1}, "`tau` must not be negative. Received: tau=-1"),
        ({"centers_per_class": 0}, "`centers_per_class` must be a whole number"),
        ({"reducer": "median"}, "`reducer` must be one of"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        SoftTripleLoss(num_classes=3, **params)
