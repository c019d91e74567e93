"""ArcFaceLoss against a hand-worked number and a plain loop over the batch, in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.arcface import ArcFaceLoss


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def cross_entropy(logits, labels):
    return np.mean([np.log(np.sum(np.exp(row))) - row[label] for row, label in zip(logits, labels, strict=True)])


def reference(x, labels, proxies, margin, scale, sub_centers):
    cosines = (units(x) @ units(proxies).T).reshape(len(x), -1, sub_centers).max(axis=2)
    for row, label in zip(cosines, labels, strict=True):
        angle, m = np.arccos(row[label]), np.radians(margin)
        row[label] = np.cos(angle + m) if angle <= np.pi - m else np.cos(angle) - m * np.sin(m)
    return cross_entropy(scale * cosines, labels)


def test_hand_worked_batch():
    loss = ArcFaceLoss(2, margin=90.0, scale=1.0)
    loss.build((None, 2), (None,))
    loss.proxies.assign([[0.0, 1.0], [3.0, 0.0]])
    # angle to the own direction 90 degrees, with the margin 180: logits -1 and 1
    assert float(loss(np.array([[2.0, 0.0]]), np.array([0]))) == pytest.approx(np.log1p(np.exp(2)), rel=1e-5)


@given(
    st.integers(1, 10),
    st.integers(1, 4),
    st.floats(0.0, 170.0),
    st.floats(1.0, 32.0),
    st.integers(1, 3),
    st.integers(0, 2**16),
)
def test_matches_reference(rows, classes, margin, scale, sub_centers, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    loss = ArcFaceLoss(classes, margin, scale, sub_centers, dtype="float64")
    loss.build((None, 3), (None,))
    proxies = rng.normal(size=loss.proxies.shape)
    loss.proxies.assign(proxies)
    wanted = reference(embeddings, labels, proxies, margin, scale, sub_centers)
    assert float(loss(embeddings, labels)) == pytest.approx(wanted, rel=1e-8, abs=1e-10)


def test_outliers_are_far_from_where_most_of_the_class_is():
    # Class 0 has directions at 0 and 90 degrees, class 1 at 180 and 270; most items of both are near the second one.
    loss = ArcFaceLoss(2, sub_centers=2)
    loss.build((None, 2), (None,))
    loss.proxies.assign([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -2.0]])
    angles = np.radians([5, 80, 95, 100, 100, 170, 269, 280, 260, 0])
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    found, main = loss.find_outliers(4.0 * np.stack([np.cos(angles), np.sin(angles)], axis=1), labels, angle=75.0)
    np.testing.assert_array_equal(main, [1, 1])
    np.testing.assert_array_equal(np.flatnonzero(found), [0, 5, 9])  # 85, 100 and 90 degrees away


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"margin": 180}, "`margin` must lie in .0, 180., in degrees. Received: margin=180"),
        ({"scale": 0}, "`scale` must be positive"),
        ({"sub_centers": 0}, "`sub_centers` must be a whole number, at least 1. Received: sub_centers=0"),
        ({"num_classes": 0}, "`num_classes` must be a whole number, at least 1"),
        ({"reducer": "median"}, "`reducer` must be one of"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        ArcFaceLoss(**{"num_classes": 3, **params})
