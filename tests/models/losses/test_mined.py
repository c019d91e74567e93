"""MinedLoss around losses over items: the weights of a hand-counted batch, in every loss that takes them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

from anchorage.losses import create_loss
from anchorage.losses.contrastive import ContrastiveLoss
from anchorage.losses.mined import MinedLoss, shares_of_pairs
from anchorage.losses.vicreg import VICRegLoss
from anchorage.mining import MultiSimilarityMiner, PairMarginMiner

LABELS = np.array([0, 0, 1, 1, 2])
# On the circle, in degrees. With positives above 30 degrees (distance 0.518) and negatives below 60 (distance 1) the
# kept pairs are, in both orders: positives 0-1 and 2-3, negatives 1-2, 2-4 and 3-4.
ANGLES = np.radians([0.0, 40.0, 75.0, 150.0, 110.0])
ROWS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)
MINER = PairMarginMiner(pos_margin=0.518, neg_margin=1.0)
WEIGHTS = np.array([1, 2, 3, 2, 2]) / 3


def mined(loss, params, proxies):
    wrapped = MinedLoss(create_loss(loss, params, num_classes=3), MINER, dtype="float64")
    wrapped.build((None, 2), (None,))
    wrapped.inner.proxies.assign(proxies)
    return float(wrapped(ROWS, LABELS))


def units(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


PROXIES = np.array([[1.0, 0.2], [0.3, 0.9], [-0.8, 0.1]])
COSINES = ROWS @ units(PROXIES).T
OWN = np.arange(5), LABELS


def cross_entropy(logits):
    return -log_softmax(logits, axis=1)[OWN]


def arcface():
    logits = COSINES.copy()
    logits[OWN] = np.cos(np.arccos(np.minimum(COSINES[OWN], 1)) + np.radians(28.6))
    return cross_entropy(4.0 * logits)


def test_weights_are_shares_of_kept_pairs():
    positives, negatives = np.zeros((2, 3, 3), bool)
    positives[0, 1] = negatives[0, 2] = negatives[1, 2] = True
    np.testing.assert_allclose(shares_of_pairs(positives, negatives, "float64"), [1.0, 1.0, 1.0])
    negatives[2, 0] = True  # once more for 0 and 2
    np.testing.assert_allclose(shares_of_pairs(positives, negatives, "float64"), [1.0, 2 / 3, 1.0])
    np.testing.assert_array_equal(shares_of_pairs(positives & False, negatives & False, "float64"), np.ones(3))


@pytest.mark.parametrize(
    ("loss", "params", "costs"),
    [
        ("softmax", {"use_bias": False, "temperature": 0.5}, cross_entropy(ROWS @ PROXIES.T / 0.5)),
        ("arcface", {"scale": 4.0}, arcface()),
        ("cosface", {"scale": 4.0, "margin": 0.2}, cross_entropy(4 * (COSINES - 0.2 * np.eye(3)[LABELS]))),
        ("sphereface", {"margin": 1, "scale": 2.0}, cross_entropy(2 * COSINES)),
        ("soft_triple", {"centers_per_class": 1, "la": 5.0, "margin": 0.0}, cross_entropy(5 * COSINES)),
        ("proxy_nca", {"include_positive": True, "scale_x": 1, "scale_p": 2}, cross_entropy(4 * COSINES)),
    ],
)
def test_costs_of_items_are_weighted(loss, params, costs):
    assert mined(loss, params, PROXIES) == pytest.approx(np.mean(WEIGHTS * costs), rel=1e-7)


def test_proxy_anchor_adds_the_weights_to_its_exponents():
    pull, push = 32 * (0.1 - COSINES) + WEIGHTS[:, None] - 1, 32 * (COSINES + 0.1) + WEIGHTS[:, None] - 1
    wanted = 0.0
    for c in range(3):
        own = np.equal(LABELS, c)
        wanted += logsumexp(np.append(pull[own, c], 0.0)) + logsumexp(np.append(push[~own, c], 0.0))
    assert mined("multi_proxy_anchor", {"proxies_per_class": 1}, PROXIES) == pytest.approx(wanted / 3, rel=1e-9)


@given(
    st.integers(1, 9), st.integers(1, 4), st.sampled_from(["pair_margin", "multi_similarity"]), st.integers(0, 2**16)
)
def test_pairs_that_a_miner_keeps_match_reference(rows, classes, miner, seed):
    """The contrastive loss over them, as a loop."""
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    s, pull, push = units(x) @ units(x).T, [], []
    for i in range(rows):
        mine = [j for j in range(rows) if j != i and labels[j] == labels[i]]
        others = [j for j in range(rows) if labels[j] != labels[i]]
        d = np.linalg.norm(units(x) - units(x)[i], axis=1)
        if miner == "pair_margin":
            kept = [j for j in mine if d[j] > 0.4], [j for j in others if d[j] < 1.1]
        else:
            kept = (
                [j for j in mine if s[i, j] < max(s[i, others], default=-np.inf) + 0.1],
                [j for j in others if s[i, j] > min(s[i, mine], default=np.inf) - 0.1],
            )
        pull += [d[j] for j in kept[0]]
        push += [1.2 - d[j] for j in kept[1] if d[j] < 1.2]
    miners = {"pair_margin": PairMarginMiner(0.4, 1.1), "multi_similarity": MultiSimilarityMiner()}
    loss = MinedLoss(ContrastiveLoss(neg_margin=1.2), miners[miner], dtype="float64")
    wanted = sum(np.mean(side) for side in (pull, push) if side)
    assert float(loss(x, labels)) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_losses_that_know_neither_pairs_nor_weights_are_refused():
    with pytest.raises(
        ValueError, match=r"a loss over pairs, or over items .*'ArcFaceLoss'.*Received: loss=VICRegLoss"
    ):
        MinedLoss(VICRegLoss())
