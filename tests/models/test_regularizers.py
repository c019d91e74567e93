"""Regularisers against plain numpy."""

import keras
import numpy as np
import pytest

from anchorage.regularizers import REGULARIZERS, LpRegularizer, SparseCentersRegularizer

ROWS = np.random.default_rng(2).normal(size=(6, 4))
UNITS = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
NORMS = np.linalg.norm(ROWS, axis=1)
WANTED = {
    "lp": NORMS.mean(),
    "zero_mean": np.abs(ROWS.sum(axis=1)).mean(),
    "center_invariant": ((NORMS**2 - (NORMS**2).mean()) ** 2).mean() / 4,
    "regular_face": np.mean([max(UNITS[i] @ UNITS[j] for j in range(6) if j != i) for i in range(6)]),
    # two classes of three: 6 pairs in all, twice their number below the line
    "sparse_centers": sum(
        np.sqrt(2 - 2 * UNITS[3 * k + i] @ UNITS[3 * k + j]) for k in range(2) for i in range(3) for j in range(i)
    )
    / 12,
}
PARAMS = {"sparse_centers": {"centers_per_class": 3}}


@pytest.mark.parametrize("name", sorted(REGULARIZERS))
def test_matches_numpy(name):
    regularizer = REGULARIZERS[name](**PARAMS.get(name, {}), dtype="float64")
    assert float(regularizer(ROWS)) == pytest.approx(WANTED[name], rel=1e-9)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(regularizer))
    assert float(again(ROWS)) == float(regularizer(ROWS))


def test_other_norms_and_powers_by_hand():
    assert float(LpRegularizer(p=1, dtype="float64")(ROWS)) == pytest.approx(np.abs(ROWS).sum(axis=1).mean())
    assert float(LpRegularizer(power=2, dtype="float64")(ROWS)) == pytest.approx((NORMS**2).mean())


def test_rejects_invalid_numbers():
    with pytest.raises(ValueError, match="`p` must be at least 1"):
        LpRegularizer(p=0.5)
    with pytest.raises(ValueError, match="`centers_per_class` must be at least 2"):
        SparseCentersRegularizer(1)
