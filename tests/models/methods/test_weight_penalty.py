"""The quadratic penalty that papers 01 and 02 share."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anchorage.methods._weight_penalty import WeightPenalty


def test_published_gradient(case):
    found = case("01-ccp-dml", "distance_regulariser")
    inputs, weight = found["inputs"], keras.Variable(found["inputs"]["previous"], dtype="float64")
    held = WeightPenalty([weight], dtype="float64")
    weight.assign(inputs["weight"])
    with tf.GradientTape() as tape:
        value = held.penalty(found["params"]["lam"])
    gradient = np.array(inputs["grad"]) + tape.gradient(value, weight.value)
    np.testing.assert_allclose(gradient, found["expected"]["grad"], rtol=1e-12)
    assert float(value) == pytest.approx(0.5 * 0.01 * (0.5**2 + 1.0), rel=1e-12)


def test_zero_where_it_was_taken():
    weights = [keras.Variable([1.0, -2.0]), keras.Variable([[3.0]])]
    held = WeightPenalty(weights)
    assert held.trainable_variables == []
    assert len(held.weights) == 2
    assert float(held.penalty(10.0)) == 0
    weights[0].assign([1.0, 0.0])
    assert float(held.penalty(10.0)) == 20
    held.take(when=tf.constant(False))
    assert float(held.penalty(10.0)) == 20
    held.take(when=tf.constant(True))
    assert float(held.penalty(10.0)) == 0
