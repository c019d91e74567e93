"""Miners of pairs against plain loops, and inside a loss."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.errors import UsageError
from anchorage.losses import LOSSES, create_loss
from anchorage.losses.mined import MinedLoss
from anchorage.losses.triplet import TripletLoss
from anchorage.mining import MINERS
from anchorage.mining.miners import (
    AngularMiner,
    BatchEasyHardMiner,
    DistanceWeightedMiner,
    HDCMiner,
    MultiSimilarityMiner,
    PairMarginMiner,
    TripletMarginMiner,
    UniformHistogramMiner,
)


def make(rows, classes, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 3)).astype("float32"), rng.integers(0, classes, rows)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    same = labels[:, None] == labels[None]
    d = np.linalg.norm(x[:, None] - x[None], axis=2)
    return x, labels, d, same & ~np.eye(rows, dtype=bool), ~same


def kept(miner, x, positives, negatives):
    return tuple(np.array(mask) for mask in miner(x, x, positives, negatives))


@given(st.integers(1, 10), st.integers(1, 4), st.floats(0.1, 1.0), st.floats(0.5, 2.0), st.integers(0, 2**16))
def test_pair_margin(rows, classes, pos_margin, neg_margin, seed):
    x, _, d, positives, negatives = make(rows, classes, seed)
    found = kept(PairMarginMiner(pos_margin, neg_margin), x, positives, negatives)
    np.testing.assert_array_equal(found[0], positives & (d > pos_margin))
    np.testing.assert_array_equal(found[1], negatives & (d < neg_margin))


@given(st.integers(1, 10), st.integers(1, 4), st.floats(0.0, 0.5), st.integers(0, 2**16))
def test_multi_similarity(rows, classes, eps, seed):
    x, _, _, positives, negatives = make(rows, classes, seed)
    s = x @ x.T
    wanted = np.zeros((2, rows, rows), bool)
    for i in range(rows):
        if positives[i].any() and negatives[i].any():
            wanted[0, i] = positives[i] & (s[i] < s[i][negatives[i]].max() + eps)
            wanted[1, i] = negatives[i] & (s[i] > s[i][positives[i]].min() - eps)
    np.testing.assert_array_equal(kept(MultiSimilarityMiner(eps), x, positives, negatives), wanted)


@given(st.integers(1, 10), st.integers(1, 4), st.floats(5, 60), st.booleans(), st.integers(0, 2**16))
def test_angular(rows, classes, angle, memory, seed):
    x, labels, _, positives, negatives = make(rows, classes, seed)
    y = x
    if memory:
        y, others, *_ = make(rows + 2, classes, seed + 1)
        positives = labels[:, None] == others[None]
        negatives = ~positives
    wanted = np.zeros((2, *positives.shape), bool)
    for a, p in zip(*np.nonzero(positives), strict=True):
        for n in np.flatnonzero(negatives[a]):
            center = (x[a].astype("float64") + y[p]) / 2
            seen = np.arctan2(np.linalg.norm(x[a] - y[p]), 2 * np.linalg.norm(y[n] - center))
            if np.degrees(seen) > angle:
                wanted[0, a, p] = wanted[1, a, n] = True
    found = AngularMiner(angle)(x, y, positives, negatives)
    np.testing.assert_array_equal(np.array(found), wanted)


RANGES = {"allowed_pos_range": [0.2, 1.2], "allowed_neg_range": [0.5, 1.7]}
CHOICES = ["easy", "hard", "semi_hard", "all"]


@given(st.integers(1, 10), st.integers(1, 4), st.sampled_from(CHOICES), st.sampled_from(CHOICES), st.integers(0, 2**16))
def test_batch_easy_hard(rows, classes, positive, negative, seed):
    if "semi_hard" in (positive, negative) and (positive == negative or "all" in (positive, negative)):
        with pytest.raises(ValueError, match="'semi_hard' requires 'easy' or 'hard' for the other kind of pair"):
            BatchEasyHardMiner(positive, negative)
        return
    x, _, d, positives, negatives = make(rows, classes, seed)
    wanted = np.zeros((2, rows, rows), bool)
    for i in range(rows):
        own, others = list(np.flatnonzero(positives[i])), list(np.flatnonzero(negatives[i]))
        if not own or not others:
            continue
        order = d[i].__getitem__
        own = {"hard": [max(own, key=order)], "easy": [min(own, key=order)]}.get(positive, own)
        others = {"hard": [min(others, key=order)], "easy": [max(others, key=order)]}.get(negative, others)
        if negative == "semi_hard":
            others = sorted((k for k in others if d[i, k] > d[i, own[0]]), key=order)[:1]
        if positive == "semi_hard":
            own = sorted((k for k in own if d[i, k] < d[i, others[0]]), key=order)[-1:]
        if own and others:
            wanted[0, i, own], wanted[1, i, others] = True, True
    np.testing.assert_array_equal(kept(BatchEasyHardMiner(positive, negative), x, positives, negatives), wanted)


@given(st.integers(1, 10), st.integers(1, 4), st.sampled_from(CHOICES), st.integers(0, 2**16))
def test_triplet_margin(rows, classes, kind, seed):
    x, _, d, positives, negatives = make(rows, classes, seed)
    wanted = np.zeros((2, rows, rows), bool)
    for a, p in zip(*np.nonzero(positives), strict=True):
        for n in np.flatnonzero(negatives[a]):
            gap = d[a, n] - d[a, p]
            if {"all": gap <= 0.3, "hard": gap <= 0, "semi_hard": 0 < gap <= 0.3, "easy": gap > 0.3}[kind]:
                wanted[0, a, p] = wanted[1, a, n] = True
    np.testing.assert_array_equal(kept(TripletMarginMiner(0.3, kind), x, positives, negatives), wanted)


def test_triplet_margin_of_similarities():
    # Cosines of the anchor: positives 0.9 and 0.2, negatives 0.5 and -0.6. Gaps 0.4 and 1.5, -0.3 and 0.8.
    x, y = np.array([[1.0, 0.0]], "float32"), np.array([[0.9], [0.2], [0.5], [-0.6]])
    y = np.hstack([y, np.sqrt(1 - y**2)]).astype("float32")
    positives, negatives = np.array([[1, 1, 0, 0]], bool), np.array([[0, 0, 1, 1]], bool)
    found = TripletMarginMiner(0.6, "semi_hard", "cosine")(x, y, positives, negatives)
    np.testing.assert_array_equal(found, [[[1, 0, 0, 0]], [[0, 0, 1, 0]]])
    found = TripletMarginMiner(0.6, "all", "cosine")(x, y, positives, negatives)
    np.testing.assert_array_equal(found, [[[1, 1, 0, 0]], [[0, 0, 1, 0]]])


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_hdc_keeps_the_hardest_share_of_the_batch(share):
    x, _, d, positives, negatives = make(9, 3, 4)
    found = kept(HDCMiner(share), x, positives, negatives)
    for mask, pairs, hardness in ((found[0], positives, d), (found[1], negatives, -d)):
        wanted = int(np.ceil(share * pairs.sum()))
        limit = np.sort(hardness[pairs])[-wanted]
        np.testing.assert_array_equal(mask, pairs & (hardness >= limit - 1e-6))  # pairs both ways tie
        assert wanted <= mask.sum() <= wanted + 1
    np.testing.assert_array_equal(kept(HDCMiner(share), x, positives & False, negatives)[0], np.zeros((9, 9)))


@given(st.integers(1, 10), st.integers(1, 4), st.integers(0, 2**16))
def test_batch_hard_within_ranges_is_that_of_the_pairs_within(rows, classes, seed):
    x, _, d, positives, negatives = make(rows, classes, seed)
    near, far = positives & (d >= 0.2) & (d <= 1.2), negatives & (d >= 0.5) & (d <= 1.7)
    found = kept(
        BatchEasyHardMiner(allowed_pos_range=[0.2, 1.2], allowed_neg_range=[0.5, 1.7]), x, positives, negatives
    )
    wanted = np.zeros((2, rows, rows), bool)
    for i in range(rows):
        if near[i].any() and far[i].any():
            wanted[0, i, max(np.flatnonzero(near[i]), key=d[i].__getitem__)] = True
            wanted[1, i, min(np.flatnonzero(far[i]), key=d[i].__getitem__)] = True
    np.testing.assert_array_equal(found, wanted)


# Values of pytorch-metric-learning 2.9.0 in float64: its miner, then its CircleLoss(), ContrastiveLoss() or
# TripletMarginLoss(0.2), on eight rows drawn from default_rng(5).
@pytest.mark.parametrize(
    ("loss", "miner", "params", "wanted"),
    [
        ("circle", "triplet_margin", {"type_of_triplets": "all"}, 210.18621614078214),
        ("circle", "triplet_margin", {"type_of_triplets": "semi_hard"}, 78.57323152357063),
        ("circle", "triplet_margin", {"type_of_triplets": "easy"}, 75.03531399210794),
        ("circle", "hdc", {"filter_percentage": 0.28}, 310.7585125546043),
        ("contrastive", "hdc", {"filter_percentage": 0.28}, 2.241029653314653),
        ("triplet", "batch_easy_hard", RANGES, 0.317421566156229),
        ("triplet", "batch_easy_hard", {**RANGES, "positive": "easy", "negative": "semi_hard"}, 0.04889617921316236),
    ],
)
def test_values_of_another_library(loss, miner, params, wanted):
    x, labels = np.random.default_rng(5).normal(size=(8, 3)).astype("float32"), np.array([0, 0, 1, 1, 2, 2, 2, 0])
    of_loss = {"margin": 0.2} if loss == "triplet" else {}
    mined = MinedLoss(LOSSES[loss](**of_loss), MINERS[miner](**params))
    assert float(mined(x, labels)) == pytest.approx(wanted, rel=1e-4)


def test_distance_weighted_draws_by_the_density():
    # In three dimensions distances on the sphere have density d / 2, so weights are 1 / d.
    x = np.array([[1, 0, 0], [1, 0.01, 0], [0.8, 0.6, 0], [0.28, 0.96, 0]], "float32")
    positives, negatives = np.zeros((2, 4, 4), bool)
    positives[0, 1] = negatives[0, 2] = negatives[0, 3] = True
    miner, counts = DistanceWeightedMiner(seed=1), np.zeros(4)
    for _ in range(600):
        found = kept(miner, x, positives, negatives)
        np.testing.assert_array_equal(found[0], positives)
        assert not found[1][1:].any()
        counts += found[1][0]
    weights = 1 / np.array([np.sqrt(0.4), np.sqrt(1.44)])
    np.testing.assert_allclose(counts[2:] / 600, weights / weights.sum(), atol=0.06)  # 3 standard deviations
    assert not counts[:2].any()


def test_uniform_histogram_evens_out_the_intervals():
    x, _, d, positives, negatives = make(300, 2, 0)
    found = kept(UniformHistogramMiner(num_bins=4, pos_per_bin=200, neg_per_bin=10**6), x, positives, negatives)
    np.testing.assert_array_equal(found[1], negatives)  # more wanted than there are
    numbers = np.histogram(d[found[0]], bins=4, range=(0, 2))[0]
    assert (np.histogram(d[positives], bins=4, range=(0, 2))[0] > 1000).all()
    np.testing.assert_allclose(numbers, 200, atol=60)  # 4 standard deviations
    assert not (found[0] & ~positives).any()


def test_loss_sees_the_kept_pairs_alone():
    # Batch-hard pairs make up the batch-hard triplets.
    x, labels, *_ = make(14, 4, 2)
    mined = MinedLoss(TripletLoss(margin=0.5), BatchEasyHardMiner())
    assert float(mined(x, labels)) == pytest.approx(float(TripletLoss(0.5, "batch_hard")(x, labels)), rel=1e-5)


def test_rejects_unknown_names():
    names = ["angular", "batch_easy_hard", "distance_weighted", "hdc", "multi_similarity", "pair_margin"]
    assert sorted(MINERS) == [*names, "triplet_margin", "uniform_histogram"]
    with pytest.raises(UsageError, match=r"pair_margins.*Did you mean 'pair_margin'"):
        create_loss("mined", {"miner": {"name": "pair_margins"}})
    with pytest.raises(ValueError, match=r"`angle` must lie in \(0, 90\), in degrees. Received: angle=90"):
        AngularMiner(angle=90)
    with pytest.raises(ValueError, match=r"`positive` must be one of .* Received: positive='any'"):
        BatchEasyHardMiner(positive="any")
    with pytest.raises(ValueError, match=r"`allowed_pos_range` must be the minimum and maximum distance. Received"):
        BatchEasyHardMiner(allowed_pos_range=[1.0, 0.5])
    with pytest.raises(ValueError, match=r"`filter_percentage` must lie in \(0, 1\]. Received: filter_percentage=0"):
        HDCMiner(filter_percentage=0)
    with pytest.raises(ValueError, match=r"`type_of_triplets` must be one of .* Received: type_of_triplets='any'"):
        TripletMarginMiner(type_of_triplets="any")
    with pytest.raises(ValueError, match=r"`margin` must not be negative. Received: margin=-1"):
        TripletMarginMiner(margin=-1)
