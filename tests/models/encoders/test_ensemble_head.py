"""Heads for an ensemble of losses: side by side with learned weights, compressed, trained, exported."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anchorage.data.store import RecordSpec
from anchorage.encoders import create_encoder
from anchorage.encoders.ensemble_head import Compressor, WeightedConcatenation
from anchorage.errors import UsageError
from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.methods import create_methods
from anchorage.serving.export import export_encoder

FILE = "15-loss-ensemble"
MEMBERS = [{"name": "contrastive"}, {"name": "multi_similarity"}]
IMAGES = np.random.default_rng(0).uniform(0, 255, (6, 8, 8, 3)).astype("float32")
LABELS = np.array([0, 0, 1, 1, 2, 2])


def encoder_with(**params):
    sizes = {"members": 2, "head_size": 3, **params.pop("head", {})}
    head = {"name": "ensemble", "params": sizes}
    return create_encoder("small", **{"widths": [4], "image_size": 8, "embedding_size": 4, "head": head, **params})


def learner_with(encoder=None, loss=None, members=MEMBERS):
    encoder = encoder or encoder_with()
    loss = loss or create_loss("ensemble", {"members": members, "eta": 0.0, "prior": [3.0, 1.0]})
    learner = MetricLearner(encoder, loss, create_methods([{"name": "learned_concatenation"}]))
    learner.compile(keras.optimizers.SGD(0.05))
    learner.build((None, 8, 8, 3))
    return learner


def test_weighted_concatenation_as_published(case):
    case = case(FILE, "weighted_concatenation")
    heads = np.swapaxes(case["inputs"]["heads"], 0, 1)  # the case has them head by head
    layer = WeightedConcatenation(dtype="float64")
    layer.build(heads.shape)
    layer.shares.assign(case["inputs"]["weights"])
    rows = layer(heads).numpy()
    np.testing.assert_allclose(rows, case["expected"]["embedding"], atol=1e-12)
    apart = np.sum((rows[0] - rows[1]) ** 2)
    assert apart == pytest.approx(case["expected"]["squared_distance_rows_0_1"], rel=1e-12)
    weighted = np.sum(case["inputs"]["weights"] * np.sum((heads[0] - heads[1]) ** 2, axis=1))
    assert apart == pytest.approx(weighted, rel=1e-6)


def test_compressor_by_hand_and_without_gradient_to_its_input():
    layer, rows = Compressor(2, hidden=3), tf.Variable(np.random.default_rng(0).normal(size=(4, 5)).astype("float32"))
    with tf.GradientTape() as tape:
        made = layer(rows)
        total = tf.reduce_sum(made)
    w1, b1, w2, b2 = (weight.numpy() for weight in layer.weights)
    np.testing.assert_allclose(made, np.tanh(rows.numpy() @ w1 + b1) @ w2 + b2, atol=1e-6)
    assert tape.gradient(total, rows) is None


def test_what_the_encoder_gives():
    outputs = encoder_with()(IMAGES)
    assert {name: tuple(x.shape) for name, x in outputs.items()} == {
        "embeddings": (6, 4),
        "heads": (6, 2, 3),
        "compressed": (6, 4),
    }
    for rows in outputs.values():
        np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1.0, atol=1e-5)
    joined = encoder_with(head={"compress": False}, embedding_size=6)(IMAGES)
    assert list(joined) == ["embeddings", "heads"]
    expected = joined["heads"].numpy().reshape(6, 6) / np.sqrt(2)
    np.testing.assert_allclose(joined["embeddings"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("head", "size"), [({"members": 0}, 4), ({"head_size": 0}, 4), ({"compress": False}, 4), ({}, 0)]
)
def test_sizes_that_do_not_fit_are_refused(head, size):
    with pytest.raises(ValueError, match="Received"):
        encoder_with(head=head, embedding_size=size)


def test_an_unknown_head_or_parameter_is_refused():
    with pytest.raises(UsageError, match=r"Known: \['ensemble', 'global_local', 'identity', 'plain'\]"):
        create_encoder("small", image_size=8, embedding_size=4, widths=[4], head={"name": "ensmble"})
    with pytest.raises(UsageError, match="E_PARAMETER_UNKNOWN"):
        encoder_with(head={"member": 3})


def test_learned_weights_reach_the_concatenation():
    learner = learner_with()
    shares = learner.encoder.get_layer("concatenation").shares
    np.testing.assert_allclose(shares, [0.5, 0.5])
    learner.methods[0].start(None)
    np.testing.assert_allclose(shares, [0.75, 0.25], atol=1e-6)
    for _ in range(3):
        learner.train_on_batch(IMAGES, LABELS)
    learner.methods[0].after_epoch(None, {})
    np.testing.assert_allclose(shares, learner.loss_layer.weights_of_members(), atol=1e-7)
    assert abs(shares.numpy() - [0.75, 0.25]).max() > 1e-4


def test_the_cost_of_compression_moves_the_compressor_alone():
    learner = learner_with(loss=create_loss("ensemble", {"members": MEMBERS, "diversity_weight": 0.0}))
    variables = learner.trainable_variables

    def gradients(with_compressed):
        with tf.GradientTape() as tape:
            outputs = dict(learner.encoder(IMAGES))
            if not with_compressed:
                outputs.pop("compressed")
            loss = learner.loss_layer(**outputs, labels=tf.constant(LABELS), training=False)
        found = tape.gradient(loss, [v.value for v in variables], unconnected_gradients="zero")
        return [np.asarray(tf.convert_to_tensor(g)) for g in found]

    for variable, ours, without in zip(variables, gradients(True), gradients(False), strict=True):
        moved = "compressor" in variable.path.split("/")
        if moved:
            assert not without.any(), variable.path
            assert ours.any(), variable.path
        else:
            np.testing.assert_allclose(ours, without, atol=1e-6, err_msg=variable.path)


@pytest.mark.parametrize(
    ("encoder", "loss", "code"),
    [
        (lambda: create_encoder("small", image_size=8, embedding_size=4, widths=[4]), None, "E_METHOD_ENCODER"),
        (encoder_with, lambda: create_loss("contrastive"), "E_METHOD_LOSS"),
    ],
)
def test_parts_that_do_not_fit_are_refused(encoder, loss, code):
    with pytest.raises(UsageError, match=code):
        learner_with(encoder(), loss and loss())


def test_as_many_heads_as_members():
    with pytest.raises(ValueError, match=r"one head for each of 2 members\. Received: 3"):
        learner_with(encoder_with(head={"members": 3}))


def test_saved_with_shares_and_means(tmp_path):
    learner = learner_with()
    learner.train_on_batch(IMAGES, LABELS)
    learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    np.testing.assert_array_equal(
        again.predict(IMAGES, verbose=0)["embeddings"], learner.predict(IMAGES, verbose=0)["embeddings"]
    )
    assert again.train_on_batch(IMAGES, LABELS) == learner.train_on_batch(IMAGES, LABELS)


@pytest.mark.thorough
def test_trains_goes_on_and_exports_the_compressed_embedding(goes_on, settings, tmp_path):
    arguments = settings(epochs=4, steps_per_epoch=25, methods=[{"name": "learned_concatenation"}])
    head = {"name": "ensemble", "params": {"members": 2, "head_size": 4}}
    arguments["encoder"] = {**arguments["encoder"], "head": head}
    arguments["loss"] = {"name": "ensemble", "params": {"members": MEMBERS}}
    learner = goes_on(arguments, stops=[50])
    export_encoder(learner.encoder, tmp_path / "export", RecordSpec(16))
    loaded = tf.saved_model.load(str(tmp_path / "export"))
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype("uint8")
    served = loaded.signatures["pixels"](images=tf.constant(images))
    assert list(served) == ["embeddings"]
    np.testing.assert_allclose(served["embeddings"], learner.encoder(images)["compressed"], atol=1e-5)


@pytest.mark.thorough
def test_global_and_local_heads_train_and_go_on(goes_on, settings):
    arguments = settings(epochs=4, steps_per_epoch=25)
    arguments["encoder"] = {**arguments["encoder"], "head": {"name": "global_local"}}
    arguments["loss"] = {"name": "hybrid", "params": {"head_weight": 0.1}}
    goes_on(arguments, stops=[50])
