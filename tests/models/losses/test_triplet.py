"""TripletLoss against hand-worked values and a plain loop over triplets, of a batch, a memory and a miner's pairs."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.triplet import MINING, TripletLoss
from anchorage.pairs.references import References

REDUCERS = [
    "avg_non_zero",
    "mean",
    "sum",
    "per_anchor",
    {"name": "threshold", "low": 0.1, "high": 0.6},
    {"name": "class_weighted", "weights": [0.5, 1.0, 2.0, 0.0]},
]


def mined(rows, columns, positives, negatives, mining, miner_margin):
    """Lists of (anchor, positive, negative), as the definitions read."""
    d = np.linalg.norm(rows[:, None] - columns[None], axis=2)
    for a in range(len(rows)):
        own, others = np.flatnonzero(positives[a]), np.flatnonzero(negatives[a])
        if not len(own) or not len(others):
            continue
        if mining == "batch_hard":
            yield a, max(own, key=lambda p: d[a, p]), min(others, key=lambda x: d[a, x])
            continue
        for p in own:
            gap = {x: d[a, x] - d[a, p] for x in others}
            if mining == "nearest_semi_hard":
                beyond = [x for x in others if gap[x] > 0]
                yield a, p, min(beyond, key=gap.get) if beyond else max(others, key=gap.get)
            for x in others:
                if {
                    "all": True,
                    "hard": gap[x] <= 0,
                    "semi_hard": 0 < gap[x] <= miner_margin,
                }.get(mining):
                    yield a, p, x


def reduced(costs, anchors, reducer, labels):
    """The reducers, in plain words."""
    costs, anchors = np.array(costs), np.array(anchors, int)
    if reducer == "sum":
        return costs.sum()
    if reducer == "per_anchor":
        each = [costs[anchors == a].mean() if (anchors == a).any() else 0.0 for a in range(len(labels))]
        return np.mean(each)
    if reducer == "avg_non_zero":
        costs = costs[costs > 0]
    elif isinstance(reducer, dict) and reducer["name"] == "threshold":
        costs = costs[(costs > reducer["low"]) & (costs < reducer["high"])]
    elif isinstance(reducer, dict):
        costs = costs * np.array(reducer["weights"])[labels[anchors]]
    return costs.mean() if len(costs) else 0.0


def reference(rows, columns, masks, labels, mining, margin, miner_margin, smooth, swap, reducer):
    anchors, costs = [], []
    for a, p, n in mined(rows, columns, *masks, mining, miner_margin):
        d_ap, d_an = np.linalg.norm(rows[a] - columns[p]), np.linalg.norm(rows[a] - columns[n])
        gap = d_ap - (min(d_an, np.linalg.norm(columns[p] - columns[n])) if swap else d_an) + margin
        anchors.append(a)
        costs.append(np.log1p(np.exp(gap)) if smooth else max(0.0, gap))
    return reduced(costs, anchors, reducer, labels)


def masks_of(labels, others):
    same = labels[:, None] == others[None]
    return same & ~np.eye(*same.shape, dtype=bool) if labels is others else same, ~same


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_hand_worked_batch():
    # anchor 0: d_ap 1, d_an 3 costs 0; anchor 1: d_ap 1, d_an 2 costs 0.5
    embeddings, labels = np.array([[0.0], [1.0], [3.0]], "float32"), np.array([0, 0, 1])
    loss = TripletLoss(margin=1.5, normalize=False, reducer="mean")
    assert float(loss(embeddings, labels)) == pytest.approx(0.25)
    swapped = TripletLoss(margin=1.5, normalize=False, reducer="mean", swap=True)
    assert float(swapped(embeddings, labels)) == pytest.approx(0.5)


@given(
    st.integers(1, 12),
    st.integers(1, 4),
    st.sampled_from(MINING),
    st.floats(0.0, 1.0),
    st.floats(0.01, 0.5),
    st.booleans(),
    st.booleans(),
    st.sampled_from(REDUCERS),
    st.sampled_from(["batch", "memory", "kept pairs"]),
    st.integers(0, 2**16),
)
def test_matches_reference(rows, classes, mining, margin, miner_margin, smooth, swap, reducer, against, seed):
    rng = np.random.default_rng(seed)
    embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    swap = swap and mining != "batch_hard"
    params = {"mining": mining, "miner_margin": miner_margin, "smooth": smooth, "swap": swap, "reducer": reducer}
    columns, others, references = embeddings, labels, None
    if against == "memory":
        columns, others = rng.normal(size=(rows + 3, 3)), rng.integers(0, classes, rows + 3)
    masks = masks_of(labels, others)
    if against != "batch":
        masks = tuple(mask & (rng.random(mask.shape) < 0.8) for mask in masks)
        references = References(*masks, *((columns, others) if against == "memory" else ()))
    value = float(TripletLoss(margin, dtype="float64", **params)(embeddings, labels, references=references))
    wanted = reference(units(embeddings), units(columns), masks, labels, margin=margin, **params)
    assert value == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_config_of_an_older_file_loads_without_its_angle():
    older = {**TripletLoss(mining="hard").get_config(), "angle": 20.0}
    assert "angle" not in TripletLoss.from_config(older).get_config()
    with pytest.raises(ValueError, match=r"TripletLoss no longer takes \['angle'\]"):
        TripletLoss.from_config({**older, "angle": 10.0})


@pytest.mark.parametrize("against", ["batch", "memory", "kept pairs"])
@pytest.mark.parametrize(("smooth", "swap"), [(False, False), (True, False), (False, True), (True, True)])
def test_gradient_is_that_of_all_triplets_written_out(smooth, swap, against):
    rng = np.random.default_rng(5)
    embeddings, labels = tf.Variable(rng.normal(size=(9, 3))), np.array([0, 0, 0, 0, 1, 1, 1, 2, 3])
    memory, others = rng.normal(size=(7, 3)), np.array([0, 0, 1, 1, 2, 3, 3])
    masks, references = masks_of(labels, others if against == "memory" else labels), None
    if against != "batch":
        masks = tuple(mask & (rng.random(mask.shape) < 0.7) for mask in masks)
        references = References(*masks, *((memory, others) if against == "memory" else ()))
    loss = TripletLoss(0.3, smooth=smooth, swap=swap, reducer="sum", dtype="float64")
    with tf.GradientTape() as tape:
        value = loss(embeddings, labels, references=references)
    gradient = tape.gradient(value, embeddings)
    with tf.GradientTape() as tape:
        x = tf.math.l2_normalize(embeddings, axis=1)
        y = units(memory) if against == "memory" else x
        d, between = lengths(x, y), lengths(y, y)
        far = tf.minimum(d[:, None, :], between[None]) if swap else d[:, None, :]
        gap = d[:, :, None] - far + 0.3
        mask = masks[0][:, :, None] & masks[1][:, None, :]
        wanted = tf.reduce_sum(tf.where(mask, tf.math.softplus(gap) if smooth else tf.nn.relu(gap), 0.0))
    assert float(value) == pytest.approx(float(wanted), rel=1e-9)
    np.testing.assert_allclose(gradient, tape.gradient(wanted, embeddings), rtol=1e-8, atol=1e-10)


def lengths(x, y):
    return tf.sqrt(tf.maximum(tf.reduce_sum((x[:, None] - y[None]) ** 2, axis=2), 1e-12))


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"mining": "soft"}, "`mining` must be one of .*Received: mining='soft'"),
        ({"mining": "easy"}, "Received: mining='easy'. Use the loss 'mined' with the miner 'triplet_margin'"),
        ({"mining": "angular"}, "Received: mining='angular'. Use the loss 'mined' with the miner 'angular'"),
        ({"margin": -0.1}, "`margin` must not be negative. Received: margin=-0.1"),
        ({"miner_margin": 0}, "`miner_margin` must be positive. Received: miner_margin=0"),
        ({"mining": "batch_hard", "swap": True}, "`swap` has no meaning with mining='batch_hard'"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        TripletLoss(**params)


def test_a_negative_as_far_as_the_positive_is_not_semi_hard():
    rows = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], "float32")
    loss = TripletLoss(margin=0.5, mining="semi_hard", miner_margin=0.5, normalize=False)
    # Anchor 0 has positive and negative at distance 1; to anchor 1 the negative is 2 away, more than 1 + 0.5.
    assert float(loss(rows, np.array([0, 0, 1]))) == 0.0
