"""MarginLoss against the published cases with given triplets, and a loop over all of them."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.margin import MarginLoss
from anchorage.pairs.references import References

CASES = json.loads((Path(__file__).parents[2] / "data" / "vectors" / "14-dws-margin.json").read_text())
TRIPLETS = [case for case in CASES if case["name"].startswith("margin")]


@pytest.mark.parametrize("case", TRIPLETS, ids=lambda case: case["name"])
def test_published_cases(case):
    inputs, expected = case["inputs"], case["expected"]
    rows, labels, beta = tf.Variable(np.array(inputs["embeddings"])), np.array(inputs["labels"]), inputs["beta"]
    per_class = len(beta) > 1
    loss = MarginLoss(
        margin=case["params"]["alpha"],
        nu=case["params"]["nu"],
        beta_per_class=per_class,
        num_classes=len(beta) if per_class else None,
        dtype="float64",
    )
    loss.build((None, 2), (None,))
    loss.boundaries.assign(beta)
    positives, negatives = np.zeros((6, 6)), np.zeros((6, 6))
    np.add.at(positives, (inputs["anchor"], inputs["positive"]), 1)
    np.add.at(negatives, (inputs["anchor"], inputs["negative"]), 1)
    with tf.GradientTape() as tape:
        value = loss.cost(rows, rows, labels, positives, negatives)
    gradient, of_beta = tape.gradient(value, [rows, loss.boundaries.value])
    assert float(value) == pytest.approx(expected["loss"], rel=1e-9)
    np.testing.assert_allclose(gradient, expected["grad_embeddings"], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(tf.convert_to_tensor(of_beta), expected["grad_beta"], rtol=1e-9, atol=1e-12)
    loss.nu += 1.0  # adds the boundaries of all triplets over the number of active terms
    of_triplets = np.array(beta)[labels[inputs["anchor"]] if per_class else np.zeros(len(inputs["anchor"]), int)]
    more = float(loss.cost(rows, rows, labels, positives, negatives)) - float(value)
    assert np.sum(of_triplets) / more == pytest.approx(expected["active_terms"], rel=1e-9)


@given(
    st.integers(1, 9),
    st.integers(1, 4),
    st.floats(0.0, 0.5),
    st.floats(0.3, 1.7),
    st.sampled_from(["batch", "memory", "kept pairs"]),
    st.integers(0, 2**16),
)
def test_all_triplets_match_reference(rows, classes, margin, beta, against, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    y, others, references = x, labels, None
    if against == "memory":
        y, others = rng.normal(size=(rows + 2, 3)), rng.integers(0, classes, rows + 2)
    same = labels[:, None] == others[None]
    masks = same if against == "memory" else same & ~np.eye(rows, dtype=bool), ~same
    if against != "batch":
        masks = tuple(mask & (rng.random(mask.shape) < 0.8) for mask in masks)
        references = References(*masks, *((y, others) if against == "memory" else ()))
    d = np.sqrt(np.sum((units(x)[:, None] - units(y)[None]) ** 2, axis=2) + 1e-8)
    costs = []
    for a in range(rows):
        for p in np.flatnonzero(masks[0][a]):
            for n in np.flatnonzero(masks[1][a]):
                costs += [max(0, d[a, p] - beta + margin), max(0, beta - d[a, n] + margin)]
    wanted = sum(costs) / max(1, sum(cost > 0 for cost in costs))
    loss = MarginLoss(margin, beta, beta_per_class=False, mining="all", dtype="float64")
    assert float(loss(x, labels, references=references)) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def units(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_one_positive_and_one_drawn_negative_an_anchor():
    # Two anchors see the same: positives at distances 1 and sqrt(2) of it, one negative opposite. The boundary is
    # far up, so both terms of a triplet cost, and two triplets come from each anchor that has positives.
    x = np.array([[1.0, 0.0, 0.0], [0.5, np.sqrt(0.75), 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]])
    positives, negatives = np.zeros((2, 4, 4), bool)
    positives[0, 1:3] = negatives[0, 3] = True
    loss = MarginLoss(margin=1.5, beta=1.0, beta_per_class=False, triplets_per_anchor=1, seed=4, dtype="float64")
    batch, references = (x, np.array([0, 0, 0, 1])), References(positives, negatives)
    values = {round(float(loss(*batch, references=references)), 6) for _ in range(30)}
    # (d_ap - 1 + 1.5 + 1 - 2 + 1.5) / 2 for d_ap = 1 and sqrt(2)
    assert values == {1.0, 1.207107}


# pytorch-metric-learning 2.9.0 in float64: MarginLoss(beta=0.7) with its distances, on rows of default_rng(5).
@pytest.mark.parametrize(
    ("distance", "wanted"),
    [
        ("squared_euclidean", 1.788811139271416),
        ("cosine", 0.8708641691355644),
        ("snr", 4.3968154277170015),
    ],
)
def test_distances_have_the_values_of_another_library(distance, wanted):
    x, labels = np.random.default_rng(5).normal(size=(8, 3)), np.array([0, 0, 1, 1, 2, 2, 2, 0])
    loss = MarginLoss(beta=0.7, beta_per_class=False, mining="all", distance=distance, dtype="float64")
    assert float(loss(x, labels)) == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize("mining", ["all", "distance_weighted"])
def test_so_many_triplets_are_drawn_for_each_anchor_that_has_any(mining, monkeypatch):
    rng, labels, seen = np.random.default_rng(0), np.array([0, 0, 0, 0, 1, 1, 2]), []
    loss = MarginLoss(beta_per_class=False, mining=mining, triplets_per_anchor=7)
    x = rng.normal(size=(7, 3)).astype("float32")
    loss(x, labels)
    monkeypatch.setattr(loss, "cost", lambda *triplets: seen.append(triplets[-2:]) or 0.0)
    for _ in range(50):
        loss(x, labels)
    positives, negatives = np.sum(np.array(seen), axis=0)
    same = labels[:, None] == labels[None]
    np.testing.assert_array_equal(positives.sum(axis=1), [350] * 6 + [0])
    np.testing.assert_array_equal(negatives.sum(axis=1), [350] * 6 + [0])
    assert not positives[~same | np.eye(7, dtype=bool)].any()
    assert not negatives[same].any()
    np.testing.assert_allclose(positives[0, 1:4], 350 / 3, atol=36)  # 4 standard deviations
    if mining == "all":
        np.testing.assert_allclose(negatives[0, 4:], 350 / 3, atol=36)


def test_boundary_is_kept_among_the_distances():
    loss = MarginLoss(num_classes=3, clip_beta=True)
    loss.build((None, 4), (None,))
    keras.optimizers.SGD(100.0).apply([np.array([1.0, -1.0, 0.0], "float32")], [loss.boundaries])
    np.testing.assert_allclose(loss.boundaries, [0.0, 2.0, 1.2])


def test_draws_move_on_and_start_again_with_the_seed():
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(24, 4)).astype("float32"), np.arange(24) % 6
    first, second = (MarginLoss(num_classes=6, seed=5) for _ in range(2))
    values = [float(first(*batch)) for _ in range(3)]
    assert values == [float(second(*batch)) for _ in range(3)]
    assert len(set(values)) == 3


# On the circle, in degrees: two classes of two, 20 apart within and 160 to 180 across. Distances 0.35 and 1.97 or more.
APART = np.radians([0.0, 20.0, 180.0, 200.0])


@pytest.mark.parametrize("mining", ["all", "distance_weighted"])
def test_beyond_both_margins_loss_and_gradients_are_zero(mining):
    x, labels = tf.Variable(np.stack([np.cos(APART), np.sin(APART)], axis=1)), np.array([0, 0, 1, 1])
    loss = MarginLoss(margin=0.2, beta=1.2, num_classes=2, mining=mining, dtype="float64")
    with tf.GradientTape() as tape:
        value = loss(x, labels)
    gradients = tape.gradient(value, [x, loss.boundaries.value])
    assert float(value) == 0.0
    assert not any(np.any(tf.convert_to_tensor(gradient)) for gradient in gradients)


def test_slope_in_the_boundary_and_none_for_an_absent_class():
    """Within its kinks the loss rises by (active negatives - active positives) / active terms."""
    rng = np.random.default_rng(2)
    x, labels = rng.normal(size=(8, 3)), np.array([0, 0, 0, 0, 2, 2, 2, 2])
    d = np.sqrt(np.sum((units(x)[:, None] - units(x)[None]) ** 2, axis=2) + 1e-8)
    same = (labels[:, None] == labels[None]) & ~np.eye(8, dtype=bool)
    loss = MarginLoss(0.2, 1.1, num_classes=3, mining="all", dtype="float64")
    loss.build((None, 3), (None,))
    loss.boundaries.assign([1.1] * 3)  # at first they are float32 numbers
    pulled = np.sum(same & (d > 1.1 - 0.2), axis=1) * 4  # once for each of 4 negatives
    pushed = np.sum((labels[:, None] != labels[None]) & (d < 1.1 + 0.2), axis=1) * 3
    wanted = (pushed - pulled).reshape(2, 4).sum(axis=1) / np.sum(pushed + pulled)
    with tf.GradientTape() as tape:
        value = loss(x, labels)
    gradient = tf.convert_to_tensor(tape.gradient(value, loss.boundaries.value)).numpy()
    np.testing.assert_allclose(gradient, [wanted[0], 0.0, wanted[1]], rtol=1e-9)
    loss.boundaries.assign([1.1 + 1e-4, 1.1, 1.1])
    assert float(loss(x, labels)) - float(value) == pytest.approx(1e-4 * wanted[0], rel=1e-6)


def test_no_gradient_flows_through_the_draws():
    # The same seed draws the same negatives: what is left is the slope of the cost for given triplets.
    rng = np.random.default_rng(5)
    x, labels, way = rng.normal(size=(10, 3)), np.arange(10) % 3, rng.normal(size=(10, 3))
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        value = MarginLoss(beta_per_class=False, seed=3, dtype="float64")(variable, labels)
    slope = np.sum(tape.gradient(value, variable).numpy() * way)
    ends = [
        float(MarginLoss(beta_per_class=False, seed=3, dtype="float64")(x + step * way, labels))
        for step in (1e-6, -1e-6)
    ]
    assert abs(slope) > 0.01
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("mining", ["all", "distance_weighted"])
def test_rotation_does_not_matter(mining):
    rng = np.random.default_rng(6)
    x, labels, turn = rng.normal(size=(10, 3)), np.arange(10) % 3, np.linalg.qr(rng.normal(size=(3, 3)))[0]
    plain, turned = (
        float(MarginLoss(beta_per_class=False, mining=mining, seed=3, dtype="float64")(rows, labels))
        for rows in (x, x @ turn)
    )
    assert turned == pytest.approx(plain, rel=1e-9)


def test_one_positive_per_anchor_of_an_older_config_is_one_triplet():
    config = MarginLoss(beta_per_class=False).get_config()
    assert MarginLoss.from_config({**config, "positives_per_anchor": "all"}).triplets_per_anchor is None
    assert MarginLoss.from_config({**config, "positives_per_anchor": "one"}).triplets_per_anchor == 1


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"margin": -1, "num_classes": 2}, "`margin` must not be negative. Received: margin=-1"),
        ({"beta": 2.5, "num_classes": 2}, "`beta` must lie between 0 and 2. Received: beta=2.5"),
        ({}, "`num_classes` is needed with beta_per_class=True"),
        (
            {"mining": "hard", "num_classes": 2},
            "`mining` must be 'distance_weighted' or 'all'. Received: mining='hard'",
        ),
        ({"cutoff": 1.5, "num_classes": 2}, "`nonzero_loss_cutoff` must be above `cutoff`"),
        ({"distance": "cosine", "clip_beta": True}, "`clip_beta` needs distance='euclidean'. Received: distance='cosi"),
        ({"distance": "arc"}, "`distance` must be one of .*Received: distance='arc'"),
        ({"triplets_per_anchor": 0}, "`triplets_per_anchor` must be a whole number, at least 1. Received: .*=0"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        MarginLoss(**params)
