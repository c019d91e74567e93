"""A new loss is one file and one line in the table; from outside the table not even that line."""

import sys

import keras
import numpy as np
import pytest

from anchorage.catalogue import describe_losses
from anchorage.learner import MetricLearner
from anchorage.losses import LOSSES, create_loss

FILE = '''
"""Centres: nobody, nowhere, 2030, equation 1."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="my_lab")
class CentreLoss(keras.layers.Layer):
    """Draws every embedding to the mean of its class in the batch."""

    def __init__(self, weight: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def call(self, embeddings, labels):
        same = ops.cast(labels[:, None] == labels[None, :], embeddings.dtype)
        centres = ops.matmul(same / ops.sum(same, axis=1, keepdims=True), embeddings)
        return self.weight * ops.mean(ops.sum(ops.square(embeddings - centres), axis=1))

    def get_config(self):
        return {**super().get_config(), "weight": self.weight}
'''
# Two classes, each two points 2 apart: every point lies 1 from the mean of its class.
EMBEDDINGS, LABELS = np.array([[0.0, 1.0], [0.0, -1.0], [5.0, 3.0], [5.0, 5.0]], "float32"), np.array([4, 4, 9, 9])


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "centre_of_my_lab.py").write_text(FILE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "centre_of_my_lab"
    sys.modules.pop("centre_of_my_lab", None)


def test_one_file_named_by_its_path(module, tmp_path):
    loss = create_loss(f"{module}:CentreLoss", {"weight": 2.0}, num_classes=4)
    assert float(loss(EMBEDDINGS, LABELS)) == pytest.approx(2.0)
    learner = MetricLearner(keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]), loss)
    learner.compile(optimizer=keras.optimizers.SGD(0.01))
    first, *_, last = learner.fit(EMBEDDINGS, LABELS, epochs=20, verbose=0).history["loss"]
    assert last < first
    learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    assert again.loss_layer.weight == 2.0


def test_one_line_brings_it_into_the_table(module, monkeypatch):
    monkeypatch.setitem(LOSSES, "centre", __import__(module).CentreLoss)  # the line
    assert float(create_loss("centre")(EMBEDDINGS, LABELS)) == pytest.approx(1.0)


def test_what_is_in_the_table_is_listed(tmp_path):
    table = 'from losses.centre import CentreLoss\n\nLOSSES: dict[str, type] = {\n    "centre": CentreLoss,\n}\n'
    (tmp_path / "__init__.py").write_text(table, encoding="utf-8")
    (tmp_path / "centre.py").write_text(FILE, encoding="utf-8")
    [row] = describe_losses(tmp_path)
    assert row.name == "centre"
    assert row.paper == "Centres: nobody, nowhere, 2030, equation 1."
    assert row.summary == "Draws every embedding to the mean of its class in the batch."
    assert row.parameters == {"weight": 1.0}
