"""RegularizedLoss is the sum of its loss and its regularizers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from anchorage.losses.arcface import ArcFaceLoss
from anchorage.losses.contrastive import ContrastiveLoss
from anchorage.losses.regularized import RegularizedLoss
from anchorage.regularizers import REGULARIZERS, LpRegularizer, SparseCentersRegularizer

ROWS = np.random.default_rng(2).normal(size=(6, 4))
NORMS = np.linalg.norm(ROWS, axis=1)


def nearest(rows):
    """Mean cosine of each row to the nearest other one."""
    units = [row / np.linalg.norm(row) for row in rows]
    pairs = [[a @ b for j, b in enumerate(units) if j != i] for i, a in enumerate(units)]
    return np.mean([max(cosines, default=0.0) for cosines in pairs])


PLAIN = {
    "lp": lambda rows: np.mean([np.sqrt(np.sum(row**2)) for row in rows]),
    "zero_mean": lambda rows: np.mean([abs(np.sum(row)) for row in rows]),
    "center_invariant": lambda rows: np.var([np.sum(row**2) for row in rows]) / 4,
    "regular_face": nearest,
}
NAMES = st.sampled_from([None, *PLAIN])


@given(st.integers(1, 8), st.integers(1, 4), NAMES, NAMES, st.floats(0, 3), st.floats(0, 3), st.integers(0, 2**16))
def test_matches_reference(rows, classes, of_rows, of_proxies, rows_weight, proxies_weight, seed):
    rng = np.random.default_rng(seed)
    x, labels, proxies = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows), rng.normal(size=(classes, 3))
    wanted = -np.mean([log_softmax(proxies @ row)[label] for row, label in zip(x, labels, strict=True)])
    of_rows = of_rows if of_rows or of_proxies else "lp"
    wanted += rows_weight * PLAIN[of_rows](x) if of_rows else 0.0
    wanted += proxies_weight * PLAIN[of_proxies](proxies) if of_proxies else 0.0
    loss = RegularizedLoss(
        embeddings_regularizer=of_rows and REGULARIZERS[of_rows](),
        embeddings_weight=rows_weight,
        proxies_regularizer=of_proxies and REGULARIZERS[of_proxies](),
        proxies_weight=proxies_weight,
        num_classes=classes,
        dtype="float64",
    )
    loss.build((None, 3), (None,))
    loss.inner.proxies.assign(proxies)
    assert float(loss(x, labels)) == pytest.approx(wanted, rel=1e-8, abs=1e-10)


def test_is_added_to_a_loss_with_its_weight():
    labels = np.array([0, 0, 1, 1, 2, 2])
    loss = RegularizedLoss(
        ArcFaceLoss(3, sub_centers=2),
        embeddings_regularizer=LpRegularizer(),
        embeddings_weight=0.5,
        proxies_regularizer=SparseCentersRegularizer(2),
        proxies_weight=2.0,
        dtype="float64",
    )
    value = float(loss(ROWS, labels))
    alone = ArcFaceLoss(3, sub_centers=2, dtype="float64")
    alone.build((None, 4), (None,))
    alone.proxies.assign(loss.inner.proxies)
    merging = float(SparseCentersRegularizer(2, dtype="float64")(loss.inner.proxies))
    assert value == pytest.approx(float(alone(ROWS, labels)) + 0.5 * NORMS.mean() + 2 * merging, rel=1e-9)


def test_weight_of_zero_leaves_the_loss():
    labels = np.array([0, 0, 1, 1, 2, 2])
    wanted = float(ContrastiveLoss()(ROWS, labels))
    assert float(RegularizedLoss(ContrastiveLoss(), embeddings_weight=0.0)(ROWS, labels)) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"embeddings_regularizer": "lp"}, "`embeddings_regularizer` must be a Keras layer"),
        ({"embeddings_weight": -1}, "`embeddings_weight` must not be negative"),
        ({"num_classes": None}, "`num_classes` is needed for the losses inside by default. Received"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        RegularizedLoss(**{"num_classes": 3, **params})


def test_rejects_a_regularizer_of_proxies_for_a_loss_without():
    loss = RegularizedLoss(ContrastiveLoss(), proxies_regularizer=LpRegularizer())
    with pytest.raises(ValueError, match=r"`proxies_regularizer` needs a loss with proxies. .*loss=ContrastiveLoss"):
        loss(ROWS, np.array([0, 0, 1, 1, 2, 2]))
