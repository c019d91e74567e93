"""PNPLoss against a plain loop over queries, every variant."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.pnp import VARIANTS, PNPLoss

SHAPES = {
    "O": lambda r: r,
    "Ds": np.log1p,
    "Dq": lambda r: 1 - 1 / (1 + r) ** 1.5,
    "Iu": lambda r: (1 + r) * np.log1p(r),
    "Ib": lambda r: (3 * r - np.log1p(3 * r)) / 9,
}


@given(st.integers(1, 10), st.integers(1, 4), st.sampled_from(VARIANTS), st.floats(0.05, 1.0), st.integers(0, 2**16))
def test_matches_reference(rows, classes, variant, anneal, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    z = x / np.linalg.norm(x, axis=1, keepdims=True)
    s, total = z @ z.T, 0.0
    for i in range(rows):
        others = labels != labels[i]
        counts = [np.sum(1 / (1 + np.exp(-(s[i, others] - s[i, j]) / anneal))) for j in np.flatnonzero(~others)]
        total += np.mean([SHAPES[variant](count) for count in counts])
    value = float(PNPLoss(variant, anneal, alpha=1.5, b=3.0, dtype="float64")(x, labels))
    assert value == pytest.approx(total / rows, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_is_the_slope_of_the_value(variant):
    rng = np.random.default_rng(2)
    x, labels, way = rng.normal(size=(7, 3)), np.array([0, 0, 0, 1, 1, 2, 2]), rng.normal(size=(7, 3))
    loss, point = PNPLoss(variant, 0.2, dtype="float64"), tf.Variable(x)
    with tf.GradientTape() as tape:
        value = loss(point, labels)
    rise = (float(loss(x + 1e-6 * way, labels)) - float(loss(x - 1e-6 * way, labels))) / 2e-6
    assert np.sum(tape.gradient(value, point) * way) == pytest.approx(rise, rel=1e-6)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"variant": "X"}, "`variant` must be one of .*Received: variant='X'"),
        ({"anneal": 0}, "`anneal` must be positive. Received: anneal=0"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        PNPLoss(**params)
