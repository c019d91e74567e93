"""Losses written for Keras as losses of ours: Keras' own, one of a user's, and TensorFlow Similarity's where it is."""

import importlib.util
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from backends import differentiate

from anchorage.errors import UsageError
from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.losses._keras_loss import KerasLoss

ORACLE = Path(__file__).parents[2] / "data" / "oracles" / "tensorflow-similarity.json"
ROWS = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
ROWS /= np.linalg.norm(ROWS, axis=1, keepdims=True)
LABELS = np.array([5, 5, 2, 2, 2, 2, 7, 7])


class SameClassDistance(keras.losses.Loss):
    """What a user may have written: integer labels, one cost an item."""

    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, y_true, y_pred):
        same = keras.ops.cast(y_true[:, None] == y_true[None, :], y_pred.dtype)
        return self.scale * keras.ops.sum(same * (1.0 - y_pred @ keras.ops.transpose(y_pred)), axis=1)


class TwoViews(keras.losses.Loss):
    """A loss of two views, which knows no labels and takes no arguments."""

    def __init__(self):
        super().__init__()

    def call(self, za, zb):
        return keras.ops.sum((za - zb) * keras.ops.arange(1.0, 3.0), axis=1)


def test_keras_circle_is_ours():
    theirs = create_loss("keras.losses:Circle", {"gamma": 24.0, "margin": 0.25})
    ours = create_loss("circle", {"gamma": 24.0, "m": 0.25, "reducer": "mean"})
    assert float(theirs(ROWS, LABELS)) == pytest.approx(float(ours(ROWS, LABELS)), rel=1e-5)


def test_labels_that_float32_cannot_tell_apart_stay_apart():
    big = 2**24 + np.array([0, 0, 1, 1, 2, 2, 3, 3])
    loss = KerasLoss(f"{__name__}:SameClassDistance")
    assert float(loss(ROWS, big)) == float(loss(ROWS, big - 2**24))
    assert float(loss(ROWS, big)) != float(loss(ROWS, np.zeros(8, "int32")))


def test_costs_are_averaged_or_summed():
    rows, labels = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], "float32"), np.array([4, 4, 1])
    name = f"{__name__}:SameClassDistance"  # costs 0.4, 0.4, 0
    assert float(create_loss(name, {"scale": 3.0})(rows, labels)) == pytest.approx(0.8)
    assert float(create_loss(name, {"scale": 3.0, "reduction": "sum"})(rows, labels)) == pytest.approx(2.4)
    with pytest.raises(ValueError, match=r"`reduction` must be one of .*'sum'.*Received: reduction='none'"):
        create_loss(name, {"reduction": "none"})


def test_two_views_are_rows_of_one_label():
    loss = KerasLoss(f"{__name__}:TwoViews")
    rows = np.array([[1.0, 2.0], [0.0, 5.0], [0.0, 1.0], [3.0, 1.0]], "float32")
    # label 9: (1, 2) - (0, 1) costs 3; label 4: (0, 5) - (3, 1) costs 5
    assert float(loss(rows, np.array([9, 4, 9, 4]))) == pytest.approx(4.0)
    assert np.isnan(float(loss(rows, np.array([9, 4, 9, 9]))))
    assert np.isnan(float(loss(rows[:3], np.array([9, 4, 9]))))


def test_misspelt_parameter_and_class():
    with pytest.raises(UsageError, match=r"takes .*'gamma', 'margin', .*Received unknown: \['gama'\]"):
        create_loss("keras.losses:Circle", {"gama": 2.0})
    with pytest.raises(UsageError, match="importable class"):
        create_loss("keras.losses:Cirle")


def test_trains_saves_and_loads(tmp_path):
    check_training("keras.losses:Circle", {"gamma": 24.0}, tmp_path)


def check_training(name, params, folder):
    encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.UnitNormalization()])
    learner = MetricLearner(encoder, create_loss(name, params))
    learner.compile(optimizer=keras.optimizers.SGD(0.01))
    losses = learner.fit(ROWS, LABELS, batch_size=8, epochs=3, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert losses[0] != losses[-1]
    learner.save(folder / "learner.keras")
    loaded = keras.models.load_model(folder / "learner.keras")
    assert float(loaded.loss_layer(ROWS, LABELS)) == pytest.approx(float(learner.loss_layer(ROWS, LABELS)))


INSTALLED = importlib.util.find_spec("tensorflow_similarity") is not None
similarity = pytest.mark.skipif(not INSTALLED, reason="needs the extra `similarity`: run `make similarity`")


@similarity
def test_each_loss_of_tensorflow_similarity_gives_what_it_gave_on_keras_2():
    cases = [case for case in json.loads(ORACLE.read_text()) if case["loss"] != "XBM"]
    assert len({case["loss"] for case in cases}) == 10
    for case in cases:
        loss = create_loss(f"tensorflow_similarity.losses:{case['loss']}", case["params"])
        rows, labels = np.array(case["embeddings"], "float32"), np.array(case["labels"])
        value, (gradient,) = differentiate(lambda x, loss=loss, y=labels: loss(x, y), rows)
        assert value == pytest.approx(case["value"], rel=1e-5), case["loss"]
        assert gradient == pytest.approx(np.array(case["gradient"]), rel=1e-3, abs=1e-5), case["loss"]


@similarity
@pytest.mark.parametrize(
    "name",
    sorted({case["loss"] for case in json.loads(ORACLE.read_text())} - {"XBM"}),
)
def test_learner_trains_with_tensorflow_similarity(name, tmp_path):
    check_training(f"tensorflow_similarity.losses:{name}", {}, tmp_path)


@pytest.mark.skipif(INSTALLED, reason="TensorFlow Similarity is here")
def test_missing_package_names_the_extra():
    with pytest.raises(UsageError, match=r"No module named 'tensorflow_similarity'.*extra 'similarity'.*uv sync"):
        create_loss("tensorflow_similarity.losses:CircleLoss")
