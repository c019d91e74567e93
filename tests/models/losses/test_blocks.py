"""Losses that loop over blocks of anchors: compiled, many blocks give what one block does."""

import keras
import numpy as np
import pytest
from backends import COMPILERS, compile_loss, slopes_of

from anchorage.losses import create_loss
from anchorage.pairs import walk

ROWS, DIM, CLASSES = 23, 6, 4  # the rows fill no number of blocks, so that the last one is padded

# The branches of the loop: by class, differentiated by the backend or by hand, costs of pairs or triplets.
SETTINGS = [
    ("angular", {}),
    ("roadmap", {}),
    ("triplet", {"mining": "semi_hard", "reducer": "per_anchor", "distance": "cosine"}),
]
FURTHER_SETTINGS = [
    ("angular", {"alpha": 80.0}),
    ("mined", {"loss": {"name": "triplet", "params": {"smooth": True, "reducer": "sum"}}}),  # by mask
    ("soprc", {}),
    ("triplet", {"mining": "nearest_semi_hard"}),
    ("dynamic_soft_margin", {}),
    ("pnp", {}),
    ("roadmap", {"published_code": False, "offset": None, "reduction": "all"}),
    ("smooth_ap", {}),
    ("triplet", {}),
    ("triplet", {"smooth": True}),
]


def is_thorough(item):
    return item.callspec.params["loss"] in FURTHER_SETTINGS


@pytest.fixture(
    params=[*SETTINGS, *FURTHER_SETTINGS], ids=lambda setting: "-".join([setting[0], *map(str, setting[1].values())])
)
def loss(request):
    """A built loss and a function that puts its states back to their start."""
    loss = create_loss(*request.param, num_classes=CLASSES)
    loss(keras.KerasTensor((None, DIM)), keras.KerasTensor((None,), dtype="int32"))
    start = [keras.ops.convert_to_numpy(variable.value) for variable in loss.variables]

    def rewind():
        for variable, value in zip(loss.variables, start, strict=True):
            variable.assign(value)

    return loss, rewind


@pytest.fixture(scope="module")
def batch():
    """Classes of 9, 7, 6 and 1 items that overlap."""
    rng = np.random.default_rng(5)
    labels = rng.permutation(np.repeat(np.arange(CLASSES), (9, 7, 6, 1)))
    return (rng.normal(size=(ROWS, DIM)) + np.eye(CLASSES, DIM)[labels]).astype("float32"), labels


def test_compiled_blocks_give_the_value_and_gradient_of_one_block(loss, batch, monkeypatch):
    loss, rewind = loss
    monkeypatch.setattr(walk, "_PAIRS_AT_ONCE", 2 * ROWS)
    value, gradients = slopes_of(loss)(*batch)
    assert value > 0
    assert np.abs(gradients[0]).max() > 0

    rewind()
    monkeypatch.setattr(walk, "_PAIRS_AT_ONCE", 8)  # four anchors, two positives of each
    found, (gradient, *_) = compile_loss(loss, DIM)[COMPILERS[-1]](*map(keras.ops.convert_to_tensor, batch))
    assert float(found) == pytest.approx(value, rel=1e-5)
    largest = np.abs(gradients[0]).max()
    np.testing.assert_allclose(keras.ops.convert_to_numpy(gradient) / largest, gradients[0] / largest, atol=1e-5)
