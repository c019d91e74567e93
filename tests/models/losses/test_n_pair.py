"""NPairLoss against a plain loop over pairs of classes."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from anchorage.losses.n_pair import NPairLoss


def reference(x, labels, variant, reg_lambda, symmetric):
    pairs = [np.flatnonzero(labels == c)[:2] for c in dict.fromkeys(labels) if np.sum(labels == c) > 1]
    if not pairs:
        return 0.0
    a, p = x[[i for i, _ in pairs]], x[[j for _, j in pairs]]
    value = 0.0
    for one, other in [(a, p), (p, a)] if symmetric else [(a, p)]:
        scores = one @ other.T
        for i in range(len(scores)):
            gaps = [np.exp(scores[i, j] - scores[i, i]) for j in range(len(scores)) if j != i]
            value += np.log1p(np.sum(gaps)) if variant == "mc" else np.sum(np.log1p(gaps))
    value /= len(pairs) * (2 if symmetric else 1)
    return value + 0.25 * reg_lambda * (np.mean(np.sum(a**2, axis=1)) + np.mean(np.sum(p**2, axis=1)))


@given(
    st.integers(1, 12),
    st.integers(1, 5),
    st.sampled_from(["mc", "ovo"]),
    st.floats(0.0, 0.5),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_matches_reference(rows, classes, variant, reg_lambda, symmetric, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    value = float(NPairLoss(variant, reg_lambda, symmetric, dtype="float64")(x, labels))
    assert value == pytest.approx(reference(x, labels, variant, reg_lambda, symmetric), rel=1e-9, abs=1e-12)


def test_items_beyond_the_first_two_of_a_class_are_not_used():
    x, labels = tf.Variable(np.random.default_rng(0).normal(size=(6, 3))), np.array([0, 0, 0, 1, 1, 2])
    with tf.GradientTape() as tape:
        value = NPairLoss(dtype="float64")(x, labels)
    used = np.any(tape.gradient(value, x).numpy() != 0, axis=1)
    np.testing.assert_array_equal(used, [True, True, False, True, True, False])


def with_shared_targets(a, p, labels, variant):
    """Every row's target mass is shared by the positives of its class (`tf.contrib`'s `npairs_loss`)."""
    scores, value = a @ p.T, 0.0
    for i in range(len(labels)):
        own = [j for j in range(len(labels)) if labels[j] == labels[i]]
        if variant == "mc":
            logs = scores[i] - np.log(np.sum(np.exp(scores[i])))
            value -= np.mean(logs[own])
        else:
            value += sum(np.log1p(np.exp(scores[i, j] - scores[i, i])) for j in range(len(labels)) if j not in own)
    return value / len(labels)


@given(
    st.integers(1, 7),
    st.integers(1, 5),
    st.sampled_from(["mc", "ovo"]),
    st.booleans(),
    st.sampled_from(["halves", "interleaved"]),
    st.integers(0, 2**16),
)
def test_pairs_by_their_places_match_reference(pairs, classes, variant, symmetric, layout, seed):
    rng = np.random.default_rng(seed)
    a, p, labels = rng.normal(size=(pairs, 3)), rng.normal(size=(pairs, 3)), rng.integers(0, classes, pairs)
    wanted = with_shared_targets(a, p, labels, variant)
    if symmetric:
        wanted = (wanted + with_shared_targets(p, a, labels, variant)) / 2
    wanted += 0.25 * 0.3 * (np.mean(np.sum(a**2, axis=1)) + np.mean(np.sum(p**2, axis=1)))
    batch, of_batch = np.concatenate([a, p]), np.tile(labels, 2)
    if layout == "interleaved":
        batch, of_batch = np.stack([a, p], axis=1).reshape(-1, 3), np.repeat(labels, 2)
    loss = NPairLoss(variant, 0.3, symmetric, layout=layout, dtype="float64")
    assert float(loss(batch, of_batch)) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_pairs_by_their_places_equal_pairs_by_label():
    x, labels = np.random.default_rng(5).normal(size=(8, 3)), np.repeat([3, 1, 7, 5], 2)
    wanted = float(NPairLoss(dtype="float64")(x, labels))
    assert float(NPairLoss(layout="interleaved", dtype="float64")(x, labels)) == pytest.approx(wanted, rel=1e-12)
    turned = np.concatenate([np.arange(0, 8, 2), np.arange(1, 8, 2)])
    halves = NPairLoss(layout="halves", dtype="float64")
    assert float(halves(x[turned], labels[turned])) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("layout", ["halves", "interleaved"])
def test_items_that_make_no_pair_are_not_used(layout):
    rng = np.random.default_rng(2)
    a, p, more = rng.normal(size=(3, 3)), rng.normal(size=(3, 3)), rng.normal(size=(1, 3))
    order = np.arange(6).reshape(2, 3).T.ravel() if layout == "interleaved" else np.arange(6)
    x, labels = np.concatenate([a, p])[order], np.array([0, 1, 2, 0, 7, 2])[order]
    x, labels = tf.Variable(np.concatenate([x, more])), np.append(labels, 2)
    loss = NPairLoss(reg_lambda=0.1, layout=layout, dtype="float64")
    with tf.GradientTape() as tape:
        value = loss(x, labels)
    kept = np.stack([a[[0, 2]], p[[0, 2]]], axis=1).reshape(4, 3)
    assert float(value) == pytest.approx(
        float(NPairLoss(reg_lambda=0.1, dtype="float64")(kept, np.array([0, 0, 2, 2]))), rel=1e-9
    )
    used = np.any(tape.gradient(value, x).numpy() != 0, axis=1)
    np.testing.assert_array_equal(used, np.append(np.array([True, False, True] * 2)[order], False))


def test_reducer_takes_the_costs_of_the_pairs():
    params = {"reg_lambda": 0.0, "reducer": {"name": "class_weighted", "weights": [1.0, 2.0, 6.0]}}
    for layout in ("labels", "interleaved"):
        loss = NPairLoss(**params, layout=layout)
        assert float(loss(np.ones((6, 2)), np.arange(6) // 2)) == pytest.approx(3 * np.log(3))


def test_all_pairs_equal_or_of_two_classes():
    assert float(NPairLoss(reg_lambda=0.0)(np.ones((6, 2)), np.arange(6) // 2)) == pytest.approx(np.log(3))
    x, labels = np.random.default_rng(1).normal(size=(4, 3)), np.array([0, 0, 1, 1])
    assert float(NPairLoss("ovo")(x, labels)) == pytest.approx(float(NPairLoss("mc")(x, labels)), rel=1e-6)


@pytest.mark.parametrize("variant", ["mc", "ovo"])
def test_rotation_and_order_of_the_classes_do_not_matter(variant):
    rng = np.random.default_rng(6)
    x, labels = rng.normal(size=(8, 3)), np.array([0, 0, 1, 1, 2, 2, 2, 3])
    loss = NPairLoss(variant, dtype="float64")
    value = float(loss(x, labels))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert float(loss(x @ turn, labels)) == pytest.approx(value, rel=1e-12)
    order = np.concatenate([np.flatnonzero(labels == c) for c in (2, 3, 0, 1)])
    assert float(loss(x[order], labels[order])) == pytest.approx(value, rel=1e-12)
    assert float(loss(x, np.array([7, 4, 9, 1])[labels])) == pytest.approx(value, rel=1e-12)


def test_regulariser_is_quadratic_in_the_scale():
    x, labels = np.random.default_rng(7).normal(size=(6, 3)), np.array([0, 0, 1, 1, 2, 2])
    with_it, without = (NPairLoss(reg_lambda=reg_lambda, dtype="float64") for reg_lambda in (0.3, 0.0))

    def regulariser(scale):
        return float(with_it(scale * x, labels)) - float(without(scale * x, labels))

    assert regulariser(1.0) > 0.1
    assert regulariser(3.0) == pytest.approx(9 * regulariser(1.0), rel=1e-9)


@pytest.mark.parametrize("variant", ["mc", "ovo"])
def test_longer_rows_cost_less_where_every_pair_is_nearest(variant):
    rng = np.random.default_rng(8)
    centers = np.repeat(np.eye(3), 2, axis=0)
    x, labels = centers + 0.1 * rng.normal(size=(6, 3)), np.array([0, 0, 1, 1, 2, 2])
    scores = x[::2] @ x[1::2].T
    assert np.all(scores.argmax(axis=1) == np.arange(3))
    loss = NPairLoss(variant, reg_lambda=0.0, dtype="float64")
    values = [float(loss(scale * x, labels)) for scale in (0.5, 1.0, 2.0, 4.0)]
    assert np.all(np.diff(values) < 0)


@given(st.integers(1, 12), st.integers(1, 5), st.booleans(), st.integers(0, 2**16))
def test_one_against_one_is_never_below_one_against_all(rows, classes, symmetric, seed):
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
    one, all_others = (float(NPairLoss(v, 0.1, symmetric, dtype="float64")(x, labels)) for v in ("ovo", "mc"))
    assert one >= all_others - 1e-12


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"layout": "rows"}, "`layout` must be one of .*Received: layout='rows'"),
        ({"variant": "all"}, "`variant` must be 'mc' or 'ovo'. Received: variant='all'"),
        ({"reg_lambda": -1}, "`reg_lambda` must not be negative. Received: reg_lambda=-1"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        NPairLoss(**params)
