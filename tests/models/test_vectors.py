"""Unit vectors in NumPy."""

import numpy as np

from anchorage.vectors import unit_vectors


def test_vectors_get_unit_length_and_zeros_stay():
    np.testing.assert_allclose(unit_vectors(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])


def test_the_last_axis_holds_the_numbers_of_a_vector():
    np.testing.assert_allclose(unit_vectors(np.array([[[0.0, 2.0]], [[6.0, 8.0]]])), [[[0.0, 1.0]], [[0.6, 0.8]]])
