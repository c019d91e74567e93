"""Chance-constrained proxies: the published cases, greedy k-centre, the loop of problems, what is saved."""

from itertools import combinations, pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from anchorage.errors import UsageError
from anchorage.geometry import ball_rows
from anchorage.inference import embed_rows
from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.methods.chance_constrained_proxies import ChanceConstrainedProxies, draw_rows, pick_centers
from anchorage.methods.method import TrainingContext

FILE = "01-ccp-dml"
C1 = {"name": "contrastive", "params": {"distance": "dot", "pos_margin": 1 - 1e-5, "neg_margin": 0.5}}
C1["params"]["reducer"] = "sum_per_row"
C2 = {"name": "contrastive", "params": {"pos_margin": 0.2652, "neg_margin": 0.5409}}
MS = {"name": "multi_similarity", "params": {"alpha": 2.0, "beta": 40.0, "base": 0.5, "mining": False}}
TRIPLET = {"name": "triplet", "params": {"margin": 0.0961}}
INNER = {"c1": C1, "c2": C2, "triplet": TRIPLET, "ms": MS}


def learner_of(loss, **params):
    loss = create_loss(loss["name"], {**loss["params"], "normalize": False})
    encoder = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])
    method = ChanceConstrainedProxies(**{"num_classes": 2, "embedding_size": 2, "proxies_per_class": 2, **params})
    learner = MetricLearner(encoder, loss, [method])
    learner.compile("sgd")
    learner.build((None, 2))
    return learner


def value_of(learner, rows, labels):
    rows = ops.convert_to_tensor(rows)
    return learner.compute_loss(rows, np.asarray(labels), rows, training=True)


@pytest.mark.parametrize("name", ["contrastive_active_mean", "contrastive_pos_margin", "contrastive_l2_all_mean"])
def test_published_losses(case, name):
    found = case(FILE, name)
    params, expected = found["params"], found["expected"]
    loss = create_loss(
        "contrastive",
        {
            "pos_margin": params["pos_margin"],
            "neg_margin": params["neg_margin"],
            "reducer": {"active": "avg_non_zero", "all entries": "sum_per_entry"}[params["reduction"]],
            "normalize": False,
        },
    )
    loss.dtype_policy = keras.DTypePolicy("float64")
    normalizer = {"lipschitz": "lipschitz", "l2": "unit"}[params["normalize"]]
    method = ChanceConstrainedProxies(
        2, 2, 2, pair_weight=params["w_pair"], proxy_weight=params["w_proxy"], normalizer=normalizer, dtype="float64"
    )
    learner = MetricLearner(keras.Sequential([keras.Input((2,)), keras.layers.Identity()]), loss, [method])
    learner.compile("sgd")
    learner.build((None, 2))
    order = np.argsort(found["inputs"]["proxy_labels"], kind="stable")  # ours stand class by class
    proxies = method.bank.proxies
    proxies.assign(np.array(found["inputs"]["proxies"])[order])
    rows = tf.Variable(np.array(found["inputs"]["embeddings"]))
    with tf.GradientTape() as tape:
        value = learner.compute_loss(rows, np.array(found["inputs"]["labels"]), rows, training=True)
    gradients = tape.gradient(value, [rows, proxies.value])
    assert float(value) == pytest.approx(expected["loss"], rel=1e-10)
    np.testing.assert_allclose(gradients[0], expected["grad"]["embeddings"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradients[1], np.array(expected["grad"]["proxies"])[order], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["greedy_k_center", "greedy_k_center_zero_start"])
def test_published_centers(case, name):
    found = case(FILE, name)
    pool, old = (np.array(found["inputs"][key]) for key in ("pool", "current"))
    assert pick_centers(pool, old, found["params"]["K"]).tolist() == found["expected"]["indices"]


def covering_radius(pool, chosen):
    return np.linalg.norm(pool[:, None] - chosen[None], axis=2).min(axis=1).max()


def test_centers_cover_and_do_not_hang_on_the_order():
    random = np.random.default_rng(0)
    pool, old = random.normal(size=(1, 9, 3)), random.normal(size=(1, 2, 3))
    radii = []
    for count in range(1, 10):
        [picked] = pick_centers(pool, old, count)
        assert len(set(picked)) == count
        radii.append(covering_radius(pool[0], np.concatenate([old[0], pool[0][picked]])))
    assert all(later <= earlier for earlier, later in pairwise(radii))
    assert radii[-1] == 0
    order = random.permutation(9)
    np.testing.assert_array_equal(
        pool[0][pick_centers(pool, old, 4)[0]], pool[0][order][pick_centers(pool[:, order], old, 4)[0]]
    )
    # by brute force: the first is the one farthest from its nearest old proxy
    gaps = [min(np.linalg.norm(p - q) for q in old[0]) for p in pool[0]]
    assert pick_centers(pool, old, 1)[0, 0] == np.argmax(gaps)


def test_a_used_up_class_starts_again():
    present, rows = draw_rows(np.array([5, 2, 5, 2, 2]), 5, np.random.default_rng(1))
    assert present.tolist() == [2, 5]
    assert sorted(rows[0, :3]) == [1, 3, 4]
    assert {tuple(sorted(pair)) for pair in (rows[1, :2], rows[1, 2:4])} == {(0, 2)}


def test_long_rows_are_projected_to_the_unit_ball():
    rows = np.array([[0.3, 0.4], [3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    found = ops.convert_to_numpy(ball_rows(ops.array(rows)))
    np.testing.assert_allclose(found, [[0.3, 0.4], [0.6, 0.8], [0.0, 0.0], [1.0, 0.0]], rtol=1e-6)
    rows = np.random.default_rng(0).normal(size=(8, 3)) * 1.5
    found = ops.convert_to_numpy(ball_rows(ops.array(rows)))
    for i, j in combinations(range(8), 2):
        assert np.linalg.norm(found[i] - found[j]) <= np.linalg.norm(rows[i] - rows[j]) + 1e-9


ROWS = np.random.default_rng(2).normal(size=(6, 2)).astype("float32")
LABELS = np.array([0, 1, 0, 1, 1, 0])


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_properties_of_the_loss(inner):
    learner = learner_of(inner)
    proxies = np.random.default_rng(3).normal(size=(4, 2)).astype("float32")
    learner.methods[0].bank.proxies.assign(proxies)
    plain, order = float(value_of(learner, ROWS, LABELS)), [3, 0, 5, 1, 4, 2]
    assert float(value_of(learner, ROWS[order], LABELS[order])) == pytest.approx(plain, rel=1e-5)
    learner.methods[0].bank.proxies.assign(proxies[[1, 0, 3, 2]])
    assert float(value_of(learner, ROWS, LABELS)) == pytest.approx(plain, rel=1e-5)
    alone = learner_of(inner, proxy_weight=0.0, pair_weight=1.0)
    batch = ops.convert_to_numpy(ball_rows(ops.array(ROWS)))
    expected = float(learner.loss_layer(ops.array(batch), ops.array(LABELS)))
    assert float(value_of(alone, ROWS, LABELS)) == pytest.approx(expected, rel=1e-6)


def test_one_proxy_a_class_alone_by_hand():
    """The inner loss between items and proxies: each hinge over its own active pairs."""
    learner = learner_of(C2, proxies_per_class=1, pair_weight=0.0)
    proxies = np.array([[0.3, 0.1], [-0.2, 0.5]])
    learner.methods[0].bank.proxies.assign(proxies)
    rows, pull, push = ROWS * 0.3, [], []
    assert np.linalg.norm(rows, axis=1).max() < 1  # inside the ball nothing is moved
    for row, label in zip(rows, LABELS, strict=True):
        for number, proxy in enumerate(proxies):
            gap = np.linalg.norm(row - proxy)
            (pull if number == label else push).append(gap - 0.2652 if number == label else 0.5409 - gap)
    expected = sum(np.mean([cost for cost in costs if cost > 0]) for costs in (pull, push))
    assert float(value_of(learner, rows, LABELS)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_gradients_reach_embeddings_and_proxies(inner):
    """Against central differences, in float32: the loss is smooth here."""
    learner = learner_of(inner, pair_weight=0.0)
    proxies = learner.methods[0].bank.proxies
    proxies.assign(np.random.default_rng(4).normal(size=(4, 2)) * 0.6)
    rows = tf.Variable(ROWS * 0.3)
    with tf.GradientTape() as tape:
        value = value_of(learner, rows, LABELS)
    of_rows, of_proxies = tape.gradient(value, [rows, proxies.value])
    assert float(tf.norm(of_rows)) > 0
    start, direction = ops.convert_to_numpy(proxies).copy(), np.random.default_rng(5).normal(size=(4, 2))
    values = []
    for sign in (1, -1):
        proxies.assign(start + sign * 1e-3 * direction)
        values.append(float(value_of(learner, rows, LABELS)))
    assert (values[0] - values[1]) / 2e-3 == pytest.approx(np.sum(of_proxies * direction), rel=2e-2, abs=1e-3)


def test_nothing_to_do_costs_nothing():
    learner = learner_of({"name": "contrastive", "params": {"pos_margin": 0.2, "neg_margin": 0.5}})
    learner.methods[0].bank.proxies.assign([[0.0, 0.1], [0.0, 0.0], [1.0, 0.0], [0.9, 0.0]])
    rows = tf.Variable([[0.0, 0.0], [0.0, 0.05], [0.95, 0.0], [0.95, 0.0]])
    with tf.GradientTape() as tape:
        value = value_of(learner, rows, np.array([0, 0, 1, 1]))
    assert float(value) == 0
    for gradient in tape.gradient(value, [rows, learner.methods[0].bank.proxies.value]):
        np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


@pytest.fixture
def running(store):
    """A method in a training context, whose epochs a test ends by hand."""
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(2)]
    loss = create_loss("contrastive", {"normalize": False})
    method = ChanceConstrainedProxies(8, 2, proxies_per_class=2, pool=4, lam=0.5, decay=0.5, patience=3)
    learner = MetricLearner(keras.Sequential([keras.Input((16, 16, 3)), *layers]), loss, [method])
    learner.compile("sgd")
    learner.build((None, 16, 16, 3))
    context = TrainingContext(learner, store, None, 5, 10, 0)
    method.start(context)
    return learner, method, context


def test_problems_follow_one_another(running):
    learner, method, context = running
    first = ops.convert_to_numpy(method.bank.proxies).copy()
    pool = embed_rows(learner.encoder, context.store, np.arange(len(context.store)))
    kernel, states = learner.encoder.layers[-1].kernel, []
    for epoch in range(9):  # a value that never changes: the first of a problem is its best
        kernel.assign_add(np.full(kernel.shape, 1e-4, "float32"))
        if epoch == 0:
            best = ops.convert_to_numpy(kernel).copy()
        method.after_epoch(context, {"val_map@r": 0.25})
        states.append((int(method.problem), int(method.waited), float(method.strength)))
        if epoch == 3:
            for number, proxies in ((0, first), (1, ops.convert_to_numpy(method.bank.proxies))):
                now = embed_rows(learner.encoder, context.store, np.arange(len(context.store))) if number else pool
                for label in range(8):
                    own = now[context.store.labels == label]
                    for proxy in proxies.reshape(8, 2, 2)[label]:
                        assert np.abs(own - proxy).max(axis=1).min() < 1e-6
            assert not np.array_equal(first, method.bank.proxies)
            # held are the best weights of problem 0, while the network goes on from the last
            np.testing.assert_array_equal(method.held.weights[0], best)
            assert float(method.held.penalty(2.0)) == pytest.approx(kernel.shape[0] * 2 * 3e-4**2, rel=1e-2)
    first, second, third = [(0, w, 0.0) for w in range(3)], [(1, w, 0.25) for w in (0, 0, 1, 2)], [(2, 0, 0.125)] * 2
    assert states == first + second + third


def test_a_better_value_keeps_a_problem_going(running):
    _, method, context = running
    for value in (0.1, 0.1 + 5e-6, 0.1, 0.2, 0.2, 0.2):
        method.after_epoch(context, {"val_map@r": value})
    assert (int(method.problem), int(method.waited)) == (0, 2)
    assert float(method.best_value) == pytest.approx(0.2)


def test_validation_classes_are_needed(running):
    _, method, context = running
    with pytest.raises(UsageError, match="E_NO_VALIDATION"):
        method.after_epoch(context, {"loss": 1.0})


def test_a_huge_penalty_holds_the_network(running):
    """With the step size over which the penalty alone takes a weight straight back, it never gets farther away."""
    learner, method, context = running
    images, labels = context.store.read(np.arange(48)), context.store.labels
    rate = 1e-4
    learner.optimizer.learning_rate = rate

    def travelled(strength):
        method.held.take()
        method.strength.assign(strength)
        distances = []
        for _ in range(21):
            learner.train_on_batch(images, labels)
            distances.append(float(method.held.penalty(2.0)) ** 0.5)
        return distances

    held = travelled(1 / rate)
    free = travelled(0.0)
    assert free[-1] > 5 * max(held)


def test_the_penalty_leaves_proxies_alone(running):
    learner, method, _ = running
    method.strength.assign(1e6)
    with tf.GradientTape() as tape:
        value = method.held.penalty(method.strength)
    assert tape.gradient(value, method.bank.proxies.value) is None
    assert {w.path for w in learner.trainable_weights} == {
        *(w.path for w in learner.encoder.trainable_weights),
        method.bank.proxies.path,
    }


def test_losses_that_cannot_are_refused():
    encoder = keras.Sequential([keras.Input((2,)), keras.layers.Identity()])
    with pytest.raises(UsageError, match=r"E_LOSS_NOT_OVER_PAIRS.*'contrastive'.*'triplet'"):
        MetricLearner(encoder, create_loss("vicreg"), [ChanceConstrainedProxies(2, 2)]).build((4, 2))
    with pytest.raises(UsageError, match=r"E_LOSS_NORMALIZES.*normalize = false"):
        MetricLearner(encoder, create_loss("contrastive"), [ChanceConstrainedProxies(2, 2)]).build((4, 2))


@pytest.mark.thorough
def test_state_is_saved_and_resumed(goes_on, settings):
    method = {"name": "chance_constrained_proxies", "params": {"lam": 0.01, "patience": 1, "proxies_per_class": 2}}
    arguments = settings(epochs=5, steps_per_epoch=20, methods=[method])
    arguments["loss"] = {"name": "contrastive", "params": {"pos_margin": 0.2, "normalize": False}}
    learner = goes_on(arguments, stops=[50])
    assert learner.methods[0].bank.proxies.shape == (16, 8)
