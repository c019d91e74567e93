"""RegularizedLoss is its loss and its regularisers, added."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from anchorage.errors import UsageError
from anchorage.losses.arcface import ArcFaceLoss
from anchorage.losses.contrastive import ContrastiveLoss
from anchorage.losses.regularized import RegularizedLoss
from anchorage.regularizers import SparseCentersRegularizer

ROWS = np.random.default_rng(2).normal(size=(6, 4))
NORMS = np.linalg.norm(ROWS, axis=1)
PAIRS = {"name": "contrastive"}


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
    wanted += rows_weight * PLAIN[of_rows](x) if of_rows else 0.0
    wanted += proxies_weight * PLAIN[of_proxies](proxies) if of_proxies else 0.0
    loss = RegularizedLoss(
        embeddings_regularizer=of_rows and {"name": of_rows},
        embeddings_weight=rows_weight,
        proxies_regularizer=of_proxies and {"name": of_proxies},
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
        {"name": "arcface", "params": {"sub_centers": 2}},
        embeddings_regularizer={"name": "lp"},
        embeddings_weight=0.5,
        proxies_regularizer={"name": "sparse_centers", "params": {"centers_per_class": 2}},
        proxies_weight=2.0,
        num_classes=3,
        dtype="float64",
    )
    value = float(loss(ROWS, labels))
    alone = ArcFaceLoss(3, sub_centers=2, dtype="float64")
    alone.build((None, 4), (None,))
    alone.proxies.assign(loss.inner.proxies)
    merging = float(SparseCentersRegularizer(2, dtype="float64")(loss.inner.proxies))
    assert value == pytest.approx(float(alone(ROWS, labels)) + 0.5 * NORMS.mean() + 2 * merging, rel=1e-9)


def test_weight_of_zero_and_no_regularizer_leave_the_loss():
    labels = np.array([0, 0, 1, 1, 2, 2])
    wanted = float(ContrastiveLoss()(ROWS, labels))
    assert float(RegularizedLoss(PAIRS, embeddings_weight=0.0)(ROWS, labels)) == pytest.approx(wanted)
    assert float(RegularizedLoss(PAIRS, embeddings_regularizer=None)(ROWS, labels)) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ({"embeddings_regularizer": "lp"}, ValueError, "Expected a regulariser as .* Received: 'lp'"),
        ({"embeddings_regularizer": {"name": "l2"}}, UsageError, "Unknown name 'l2'"),
        ({"embeddings_weight": -1}, ValueError, "`embeddings_weight` must not be negative"),
    ],
)
def test_rejects_invalid_arguments(params, error, text):
    with pytest.raises(error, match=text):
        RegularizedLoss(num_classes=3, **params)


def test_regularizer_of_proxies_that_the_loss_lacks_is_told():
    loss = RegularizedLoss(PAIRS, proxies_regularizer={"name": "lp"})
    with pytest.raises(ValueError, match=r"`proxies_regularizer` needs a loss with proxies. .*contrastive"):
        loss(ROWS, np.array([0, 0, 1, 1, 2, 2]))
