"""Densely anchored sampling: the published cases, its memory against plain lists, what it draws."""

from collections import defaultdict, deque

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.methods import create_methods
from anchorage.methods.densely_anchored_sampling import DenselyAnchoredSampling, mark_largest, move
from anchorage.methods.method import Step

FILE = "03-das"
CLASSES, DIM = 3, 4


def method(num_classes=CLASSES, embedding_size=DIM, dtype="float64", **params):
    made = DenselyAnchoredSampling(num_classes, embedding_size, dtype=dtype, **params)
    made.prepare(None)
    return made


def remembered(das, label):
    """The differences held for a class, oldest first."""
    pushed, slots = int(das.pushed.numpy()[label]), das.slots
    places = [place % slots for place in range(pushed - min(pushed, slots), pushed)]
    return das.differences.numpy()[label * slots : (label + 1) * slots][places]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def draw_batch(seed=0, rows=12):
    random = np.random.default_rng(seed)
    return unit(random.normal(size=(rows, DIM))), random.integers(0, CLASSES, rows).astype("int32")


def inner(step):
    """Hands out what the loss would see."""
    inner.step = step
    return keras.ops.mean(step.embeddings)


@pytest.mark.parametrize("name", ["frm_update_and_mask_K1", "frm_update_and_mask_K2_history"])
def test_counts_and_masks_as_published(case, name):
    case = case(FILE, name)
    das = method(2, 3, channels=case["params"]["K"], slots=1)
    das.counts.assign(case["inputs"]["frm_before"])
    das.count(tf.constant(case["inputs"]["embeddings"], tf.float64), tf.constant(case["inputs"]["labels"]))
    np.testing.assert_array_equal(das.counts.numpy(), case["expected"]["frm_after"])
    np.testing.assert_array_equal(mark_largest(das.counts, das.channels), case["expected"]["mask"])


def test_memory_as_published(case):
    case = case(FILE, "bank_fifo_Z3")
    das = method(2, 3, channels=1, slots=3)
    for batch in case["inputs"]["batches"]:
        das.remember(tf.constant(batch["embeddings"], tf.float64), tf.constant(batch["labels"], tf.int32))
    for label, expected in case["expected"]["bank_oldest_first"].items():
        np.testing.assert_allclose(remembered(das, int(label)), expected, atol=1e-15)


@pytest.mark.parametrize("name", ["synthesize_T2_normalised", "synthesize_T2_big_shift_unnormalised"])
def test_copies_and_their_gradient_as_published(case, name):
    case = case(FILE, name)
    params, expected = case["params"], case["expected"]
    inputs = {key: np.array(value) for key, value in case["inputs"].items()}
    embeddings = tf.Variable(inputs["embeddings"])
    with tf.GradientTape() as tape:
        shifts = params["r_b"] * inputs["transformation"]
        made = move(embeddings, inputs["mask"][inputs["labels"]], inputs["gamma"], shifts, params["normalize"])
        probe = tf.reduce_sum(tf.reshape(made, -1) * np.arange(1.0, 1.0 + made.numpy().size))
    np.testing.assert_allclose(made, expected["produced"], atol=1e-14)
    gradient = tape.gradient(probe, embeddings)
    np.testing.assert_allclose(gradient, expected["grad_embeddings"], rtol=1e-10)
    assert np.linalg.norm(gradient) == pytest.approx(expected["grad_norm"], rel=1e-10)


def test_memory_is_a_queue_for_each_class():
    das, queues = method(slots=5), defaultdict(lambda: deque(maxlen=5))
    for seed in range(6):
        rows, labels = draw_batch(seed, rows=[12, 3, 7][seed % 3])
        rows[1] = rows[0]  # a difference of exactly zero is no difference
        das.remember(tf.constant(rows), tf.constant(labels))
        for i, j in ((i, j) for i in range(len(rows)) for j in range(len(rows))):
            if labels[i] == labels[j] and (rows[i] != rows[j]).any():
                queues[labels[i]].append(rows[i] - rows[j])
        for label in range(CLASSES):
            assert len(remembered(das, label)) == len(queues[label])
            if queues[label]:
                np.testing.assert_array_equal(remembered(das, label), np.stack(queues[label]))
    assert das.pushed.numpy().max() < 10
    assert not das.differences.numpy()[-1].any()


def test_largest_channels_are_counted_by_class():
    das, (rows, labels) = method(channels=2), draw_batch()
    das.count(tf.constant(rows), tf.constant(labels))
    assert das.counts.numpy().sum() == 12 * 2
    np.testing.assert_array_equal(mark_largest(das.counts, 2).numpy().sum(axis=1), [2, 2, 2])
    np.testing.assert_array_equal(mark_largest(tf.constant([[1.0, 3.0, 3.0, 3.0]]), 2), [[0, 1, 1, 0]])


def test_nothing_scaled_nothing_shifted_is_a_plain_copy():
    das, (rows, labels) = method(scale_range=0.0, shift=0.0, copies=2), draw_batch()
    das.loss(Step(None, {"embeddings": tf.constant(rows)}, tf.constant(labels), True), inner)
    np.testing.assert_allclose(inner.step.embeddings, np.tile(rows, (3, 1)), atol=1e-6)
    np.testing.assert_array_equal(inner.step.labels, np.tile(labels, 3))


def test_copies_stay_near_and_only_typical_channels_are_scaled():
    das, (rows, labels) = method(normalize=False, channels=1, copies=200, shift=0.0, scale_range=0.2), draw_batch()
    made = das.copy(tf.constant(rows), tf.constant(labels)).numpy().reshape(200, 12, DIM)
    scales, marked = made / rows, mark_largest(das.counts, 1).numpy().astype(bool)[labels]
    np.testing.assert_allclose(scales[:, ~marked], 1.0, atol=1e-12)
    drawn = scales[:, marked]
    assert abs(drawn.mean() - 1) < 3 * 0.2 / np.sqrt(3 * drawn.size)
    assert 0.8 <= drawn.min() <= 0.81 < 1.19 < drawn.max() <= 1.2

    shifted = method(normalize=False, scale_range=0.05, shift=0.1)
    made = shifted.copy(tf.constant(rows), tf.constant(labels)).numpy().reshape(3, 12, DIM)
    assert np.linalg.norm(made - rows, axis=2).max() <= 0.05 + 2 * 0.1


def test_a_lone_item_is_scaled_only_and_unit_length():
    das = method(1, 2, channels=1)
    made = das.copy(tf.constant([[0.6, 0.8]], tf.float64), tf.constant([0])).numpy()
    assert not remembered(das, 0).size
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1.0, atol=1e-6)
    assert abs(made[:, 0] - 0.6).max() < 0.01


def test_remembered_differences_are_drawn_alike():
    das = method(slots=5)
    das.differences.assign(np.concatenate([np.tile(np.arange(15.0)[:, None], (1, DIM)), np.zeros((1, DIM))]))
    das.pushed.assign([0, 3, 7])  # none, some, all
    shares = keras.random.uniform((10_000, 3), seed=1)
    drawn = das.recall(tf.constant([0, 1, 2]), shares).numpy()[..., 0]
    assert not drawn[:, 0].any()
    for column, held in ((1, [5, 6, 7]), (2, [10, 11, 12, 13, 14])):
        values, counts = np.unique(drawn[:, column], return_counts=True)
        assert values.tolist() == held
        assert stats.chisquare(counts).pvalue > 0.001


def test_the_seed_decides_what_is_drawn():
    rows, labels = (tf.constant(values) for values in draw_batch())
    first, again, other = (method(scale_range=0.2, seed=seed).copy(rows, labels).numpy() for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("detach", [True, False])
def test_gradient_through_the_copies(detach):
    das, (rows, labels) = method(detach=detach), draw_batch()
    rows = tf.Variable(rows)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(das.copy(rows, tf.constant(labels)) * np.arange(float(DIM)))
    assert (tape.gradient(total, rows) is None) == detach


def test_the_auxiliary_form_adds_the_batch_alone():
    rows, labels = draw_batch()
    step = Step(None, {"embeddings": tf.constant(rows)}, tf.constant(labels), True)
    sizes = method(copies=2, aux_weight=0.5).loss(step, lambda step: keras.ops.cast(len(step.labels), "float64"))
    assert float(sizes) == 12 + 0.5 * 36


def test_labels_without_a_class_are_refused():
    with pytest.raises(ValueError, match=r"labels from 0 to 3"):
        method().loss(Step(None, {"embeddings": tf.zeros((2, DIM))}, tf.constant([0, 3]), True), inner)


@pytest.mark.parametrize("params", [{"copies": 0}, {"channels": 5}, {"slots": 0}, {"scale_range": 2}, {"shift": -1}])
def test_wrong_parameters_are_named(params):
    with pytest.raises(ValueError, match=f"`{next(iter(params))}`"):
        DenselyAnchoredSampling(CLASSES, DIM, **params)


def test_saved_with_memory_and_random_state(tmp_path):
    rows, labels = draw_batch()
    rows = rows.astype("float32")
    encoder = keras.Sequential([keras.Input((DIM,)), keras.layers.Dense(DIM), keras.layers.UnitNormalization()])
    [das] = create_methods([{"name": "densely_anchored_sampling"}], num_classes=CLASSES, embedding_size=DIM, seed=5)
    learner = MetricLearner(encoder, create_loss("contrastive"), [das])
    learner.compile("sgd")
    learner.train_on_batch(rows, labels)
    learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    assert again.methods[0].pushed.numpy().any()
    assert again.train_on_batch(rows, labels) == learner.train_on_batch(rows, labels)
    assert again.evaluate(rows, labels, verbose=0) == learner.evaluate(rows, labels, verbose=0)
    for ours, theirs in zip(again.methods[0].weights, das.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_has_no_part_in_evaluation():
    """The loss is the plain one on the embeddings, and neither memory nor draws take a step."""
    rows, labels = draw_batch()
    rows = rows.astype("float32")
    encoder = keras.Sequential([keras.Input((DIM,)), keras.layers.Dense(DIM), keras.layers.UnitNormalization()])
    params = {"shift": 1.0, "scale_range": 0.5}
    [das] = create_methods(
        [{"name": "densely_anchored_sampling", "params": params}], num_classes=CLASSES, embedding_size=DIM, seed=5
    )
    learner = MetricLearner(encoder, create_loss("contrastive"), [das])
    learner.compile(keras.optimizers.SGD(0.0))
    before = float(create_loss("contrastive")(encoder.predict(rows, verbose=0), labels))
    assert learner.train_on_batch(rows, labels) != pytest.approx(before, rel=1e-3)
    states = [keras.ops.convert_to_numpy(variable) for variable in das.variables]
    learner.reset_metrics()
    assert learner.test_on_batch(rows, labels) == pytest.approx(before, rel=1e-5)
    np.testing.assert_allclose(learner.predict(rows, verbose=0), encoder.predict(rows, verbose=0))
    assert len(das.variables) == 4  # what it counts, remembers and draws from
    for variable, state in zip(das.variables, states, strict=True):
        np.testing.assert_array_equal(variable, state)


@pytest.mark.thorough
def test_goes_on_as_if_never_stopped(goes_on, settings):
    methods = [{"name": "densely_anchored_sampling", "params": {"slots": 3}}]
    arguments = {**settings(epochs=4, steps_per_epoch=25, methods=methods), "loss": {"name": "multi_similarity"}}
    learner = goes_on(arguments, stops=[50])
    assert (learner.methods[0].pushed.numpy() >= 3).all()
