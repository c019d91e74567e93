"""Intra-class augmentation: the published cases, what is compared with what, its measurements and schedule."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anchorage.encoders import create_encoder
from anchorage.errors import UsageError
from anchorage.geometry import unit_rows
from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.losses.contrastive import ContrastiveLoss
from anchorage.losses.multi_similarity import MultiSimilarityLoss
from anchorage.methods import create_methods
from anchorage.methods.intra_class_augmentation import IntraClassAugmentation, compare_with_copies, vary
from anchorage.methods.method import Step

FILE = "04-iaa"
CLASSES, DIM = 3, 2
LOSSES = {
    "synthesis_and_ms_loss_M2": lambda params: MultiSimilarityLoss(
        alpha=params["ms_alpha"],
        beta=params["ms_beta"],
        base=params["ms_lambda"],
        eps=params["ms_eps"],
        dtype="float64",
    ),
    "synthesis_and_contrastive_M2": lambda params: ContrastiveLoss(
        pos_margin=params["pos_margin"],
        neg_margin=params["neg_margin"],
        distance="cosine",
        reducer="sum",
        dtype="float64",
    ),
}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_value_and_gradient_as_published(case, name):
    case = case(FILE, name)
    inputs = {key: np.array(value) for key, value in case["inputs"].items()}
    raw, labels = tf.Variable(inputs["embeddings_unnormalised"]), tf.constant(inputs["labels"])
    loss = LOSSES[name](case["params"])
    with tf.GradientTape() as tape:
        copies = vary(raw, inputs["class_var"][inputs["labels"]], case["params"]["lam"], inputs["eps"])
        rows = unit_rows(raw)
        value = loss(rows, labels, references=compare_with_copies(rows, labels, unit_rows(copies), 2))
        value = value / 6 if "contrastive" in name else value  # the published divisor: the anchors
    expected = case["expected"]
    if "synthetic" in expected:
        np.testing.assert_allclose(copies, expected["synthetic"], atol=1e-12)
    gradient = tape.gradient(value, raw)
    assert float(value) == pytest.approx(expected["loss"], rel=1e-10)
    assert np.linalg.norm(gradient) == pytest.approx(expected["grad_norm"], rel=1e-9)
    if "grad_embeddings_unnormalised" in expected:
        np.testing.assert_allclose(gradient, expected["grad_embeddings_unnormalised"], rtol=1e-8, atol=1e-12)


def method(loss="contrastive", encoder=None, **params):
    """The method, prepared for a learner on images of 4 x 4, and that learner."""
    facts = {"num_classes": CLASSES, "embedding_size": DIM, "epochs": 10, "seed": 1}
    settings = {"start_epoch": 2, "fade": False, **params}
    [augmentation] = create_methods([{"name": "intra_class_augmentation", "params": settings}], **facts)
    encoder = encoder or create_encoder("small", image_size=4, embedding_size=DIM, widths=[4], raw=True)
    num_classes = {"num_classes": CLASSES} if loss == "softmax" else {}
    learner = MetricLearner(encoder, create_loss(loss, **num_classes), [augmentation])
    learner.compile("sgd")
    learner.build((None, 4, 4, 3))
    return augmentation, learner


def see(augmentation, raw, labels):
    """The step that reaches the loss."""
    seen = []

    def inner(step):
        seen.append(step)
        return tf.constant(float(len(seen)))

    outputs = {"embeddings": unit_rows(raw), "raw": raw}
    place = int(augmentation.loss(Step(None, outputs, tf.constant(labels), True), inner))
    return seen[place - 1]


RAW = np.random.default_rng(0).normal(size=(5, DIM)).astype("float32")
LABELS = np.array([0, 0, 1, 1, 2])


def test_nothing_is_added_before_the_first_measurement():
    augmentation, _ = method()
    assert "references" not in see(augmentation, RAW, LABELS).outputs
    augmentation.update(RAW, LABELS)
    assert "references" in see(augmentation, RAW, LABELS).outputs


def test_what_is_compared_with_what():
    augmentation, _ = method(copies=3)
    augmentation.update(RAW, LABELS)
    step = see(augmentation, RAW, LABELS)
    references = step.outputs["references"]
    assert step.embeddings.shape == (5, DIM)
    assert references.embeddings.shape == (20, DIM)
    np.testing.assert_array_equal(references.labels, np.tile(LABELS, 4))
    np.testing.assert_allclose(references.embeddings[:5], step.embeddings)
    own = np.tile(np.eye(5, dtype=bool), (1, 4))
    same = LABELS[:, None] == np.tile(LABELS, 4)[None]
    cosines = step.embeddings.numpy() @ references.embeddings.numpy().T
    np.testing.assert_array_equal(references.positives, same & ~own & (cosines < 1 - 1e-5))
    np.testing.assert_array_equal(references.negatives, ~same)
    # An item alone in its class does not vary: its copies are the item.
    np.testing.assert_allclose(references.embeddings[4::5], np.tile(step.embeddings[4], (4, 1)), atol=1e-6)


def test_losses_with_proxies_get_copies_as_items():
    augmentation, _ = method("softmax", copies=2)
    augmentation.update(RAW, LABELS)
    step = see(augmentation, RAW, LABELS)
    assert step.embeddings.shape == (15, DIM)
    np.testing.assert_array_equal(step.labels, np.tile(LABELS, 3))


def test_copies_vary_as_their_class_does():
    variances = np.array([[0.5, 2.0], [0.0, 1.0]])
    noise = np.random.default_rng(3).normal(size=(200_000, 2, 2))
    raw = np.array([[1.0, -1.0], [3.0, 0.0]])
    copies = np.asarray(vary(raw, variances, 0.6, noise)).reshape(200_000, 2, 2)
    np.testing.assert_allclose(copies.var(axis=0), 0.6 * variances, rtol=0.02)
    assert (np.abs(copies.mean(axis=0) - raw) <= 4 * np.sqrt(0.6 * variances / 200_000)).all()
    np.testing.assert_array_equal(vary(raw, variances, 0.0, noise[:1]), raw)


def test_gradient_reaches_an_embedding_through_its_copies_alone():
    raw, variances = tf.Variable(RAW), tf.Variable(np.ones_like(RAW))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(vary(raw, variances, 0.6, np.ones((2, 5, DIM), "float32")) ** 2)
    of_raw, of_variances = tape.gradient(total, [raw, variances])
    assert np.abs(of_raw).min() > 0
    assert of_variances is None


def test_copies_without_variance_are_duplicates():
    augmentation, learner = method(strength=0.0, copies=1)
    augmentation.update(RAW, LABELS)
    step = see(augmentation, RAW, LABELS)
    found = learner.loss_layer(step.embeddings, step.labels, references=step.outputs["references"])
    rows = step.embeddings.numpy()
    apart = np.sqrt(np.maximum(2 - 2 * rows @ rows.T, 0))
    same, off = LABELS[:, None] == LABELS[None], ~np.eye(5, dtype=bool)
    pull, push = apart[same & off], np.maximum(1 - apart[~same], 0)
    expected = pull.mean() + (push[push > 0].mean() if (push > 0).any() else 0.0)
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_small_classes_are_corrected_on_wish():
    plain, corrected = method()[0], method(few_sample=True)[0]
    for augmentation in (plain, corrected):
        augmentation.update(RAW, LABELS)
    np.testing.assert_allclose(plain.spread, plain.variance)
    assert not plain.spread.numpy()[2].any()
    assert (corrected.spread.numpy()[2] > 0).all()  # the class with one item varies as the others do


def test_strength_fades_with_the_epochs():
    augmentation, _ = method(fade=True, strength=1.0)
    found = []
    for epoch in range(10):
        augmentation.epoch.assign(epoch)
        found.append(round(float(augmentation._strength()), 6))
    assert found == [1.0] * 5 + [0.9] * 2 + [0.75] * 2 + [0.6]


def test_an_encoder_without_raw_embeddings_is_refused():
    with pytest.raises(UsageError, match="E_METHOD_ENCODER"):
        method(encoder=create_encoder("small", image_size=4, embedding_size=DIM, widths=[4]))


def test_a_loss_that_compares_with_the_batch_only_is_refused():
    with pytest.raises(UsageError, match="E_METHOD_LOSS"):
        method("vicreg")


@pytest.mark.parametrize(
    "params", [{"copies": 0}, {"start_epoch": 10}, {"momentum": 2}, {"sigma_m": 0}, {"distance_norm": "l2"}]
)
def test_wrong_parameters_are_named(params):
    with pytest.raises(ValueError, match=f"`{next(iter(params))}`"):
        IntraClassAugmentation(CLASSES, DIM, **{"epochs": 10, "start_epoch": 1, **params})


@pytest.mark.thorough
def test_measures_on_schedule_and_goes_on_as_if_never_stopped(goes_on, settings, store, monkeypatch):
    measured = []
    update = IntraClassAugmentation.update

    def record(self, embeddings, labels):
        measured.append(int(self.epoch.numpy()))
        assert embeddings.shape == (len(store), 8)
        update(self, embeddings, labels)

    monkeypatch.setattr(IntraClassAugmentation, "update", record)
    params = {"start_epoch": 1, "update_every": 2, "few_sample": True}
    arguments = settings(epochs=5, steps_per_epoch=20, methods=[{"name": "intra_class_augmentation", "params": params}])
    learner = goes_on({**arguments, "loss": {"name": "multi_similarity"}}, stops=[50])
    assert measured == [1, 3, 3]
    assert learner.methods[0].count.numpy().tolist() == [12] * 8  # two passes over six items


def test_saved_with_what_it_measured(tmp_path):
    augmentation, learner = method(copies=1)
    images = np.random.default_rng(0).uniform(0, 255, (6, 4, 4, 3)).astype("float32")
    labels = np.array([0, 0, 1, 1, 2, 2])
    augmentation.update(learner.encoder.predict(images, verbose=0)["raw"], labels)
    learner.train_on_batch(images, labels)
    learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    assert again.train_on_batch(images, labels) == learner.train_on_batch(images, labels)
