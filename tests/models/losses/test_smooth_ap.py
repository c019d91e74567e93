"""SmoothAPLoss against a plain loop over queries, with unequal classes, and its sharp limit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.smooth_ap import SmoothAPLoss


def reference(z, labels, temperature):
    s, n, values = z @ z.T, len(labels), []
    for i in range(n):
        mine = [j for j in range(n) if labels[j] == labels[i]]
        precisions = []
        for j in mine:
            soft = {k: 1 / (1 + np.exp(-(s[i, k] - s[i, j]) / temperature)) for k in range(n) if k != j}
            precisions.append((1 + sum(soft[k] for k in mine if k != j)) / (1 + sum(soft.values())))
        values.append(np.mean(precisions))
    return 1 - np.mean(values)


@given(st.integers(1, 10), st.integers(1, 4), st.floats(0.05, 1.0), st.integers(0, 2**16))
def test_matches_reference(rows, classes, temperature, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    wanted = reference(x / np.linalg.norm(x, axis=1, keepdims=True), labels, temperature)
    value = float(SmoothAPLoss(temperature, dtype="float64")(x, labels))
    assert value == pytest.approx(wanted, rel=1e-8, abs=1e-10)


def test_sharp_limit_is_one_minus_average_precision():
    # On a quarter circle: items 0, 2 and 3 of one class, item 1 of another, in this order.
    angles = np.array([0.0, 0.3, 0.7, 1.2])
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    # The queries find their class at ranks 1, 3, 4; 1; 1, 3, 4; and 1, 2, 4.
    wanted = np.mean([(1 + 2 / 3 + 3 / 4) / 3, 1.0, (1 + 2 / 3 + 3 / 4) / 3, (1 + 2 / 2 + 3 / 4) / 3])
    value = float(SmoothAPLoss(1e-4, dtype="float64")(x, np.array([0, 1, 0, 0])))
    assert value == pytest.approx(1 - wanted, abs=1e-6)


def test_rejects_invalid_arguments():
    with pytest.raises(ValueError, match=r"`temperature` must be positive. Received: temperature=0"):
        SmoothAPLoss(temperature=0)
