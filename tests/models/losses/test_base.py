"""What a loss gets from its base: `compute` alone is enough for checked batches, ranges, nans, dtype and the config."""

import inspect

import keras
import numpy as np
import pytest
from keras import ops

from anchorage.losses import LOSSES
from anchorage.losses.base import LossLayer, call_arguments

X, LABELS = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]], "float32"), np.array([0, 1, 1])


class Lengths(LossLayer):
    """Mean of the lengths of the rows, times a factor."""

    takes = ("row_weights", "training")
    dense_labels = True

    def __init__(self, num_classes: int, factor: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.factor = factor

    def compute(self, embeddings, labels, row_weights=None, training=None):
        self.seen = labels, training
        costs = self.factor * ops.sqrt(ops.sum(ops.square(embeddings), axis=1))
        return ops.mean(costs if row_weights is None else costs * row_weights)


class Forgetful(LossLayer):
    """Keeps none of its arguments."""

    def __init__(self, margin: float = 0.5, names: list | None = None, **kwargs):
        super().__init__(**kwargs)

    def compute(self, embeddings, labels):
        return ops.mean(embeddings)


def test_compute_alone_makes_a_loss():
    loss = Lengths(num_classes=2, factor=3.0)
    assert float(loss(X, LABELS)) == pytest.approx(6.0)
    assert float(loss(X, LABELS, row_weights=np.array([1.0, 0.0, 0.0]), training=False)) == pytest.approx(1.0)
    assert loss.seen[1] is False
    assert loss.dtype == "float32"
    assert Lengths(2, dtype="float64").dtype == "float64"


def test_batch_and_labels_are_checked_before_compute():
    loss = Lengths(num_classes=2)
    with pytest.raises(TypeError, match=r"Expected integer `labels`"):
        loss(X, LABELS.astype("float32"))
    with pytest.raises(ValueError, match=r"one label per embedding\. Received: 3 embeddings and 2 labels"):
        loss(X, LABELS[1:])
    with pytest.raises(ValueError, match=r"Expected `labels` in 0 \.\. 1.*labels from 0 to 2"):
        loss(X, np.array([0, 1, 2]))
    with pytest.raises(TypeError, match="references"):
        loss(X, LABELS, references=X)
    assert not hasattr(loss, "seen")


def test_what_is_not_finite_makes_nan():
    loss = Lengths(num_classes=2)
    assert np.isnan(float(loss(np.where(X > 2, np.inf, X), LABELS)))
    assert np.isnan(float(loss(X, LABELS, row_weights=np.array([1.0, np.nan, 1.0]))))
    assert np.isfinite(ops.convert_to_numpy(loss.seen[0])).all()


def test_config_is_that_of_the_constructor_and_follows_the_attributes():
    loss = Lengths(2, name="mine")
    assert loss.get_config().items() >= {"num_classes": 2, "factor": 1.0, "name": "mine", "trainable": True}.items()
    loss.factor = 2.0
    assert loss.get_config()["factor"] == 2.0
    assert float(Lengths.from_config(loss.get_config())(X, LABELS)) == pytest.approx(4.0)
    forgotten = Forgetful(margin=0.25, names=["a"])
    assert forgotten.get_config().items() >= {"margin": 0.25, "names": ["a"]}.items()
    assert Forgetful.from_config(forgotten.get_config()).get_config() == forgotten.get_config()


class Tidied(LossLayer):
    """Had a `power` of 2 and a `mode` "soft" once."""

    _removed = {"power": 2, "mode": "soft"}  # noqa: RUF012 (never written to)
    _replaced = (({"power": 1, "mode": "hard"}, {"published_code": True}),)

    def __init__(self, margin: float = 0.5, published_code: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.margin = margin
        self.published_code = published_code

    def compute(self, embeddings, labels):
        return ops.mean(embeddings)


def test_config_with_removed_options_at_their_defaults_loads():
    loss = Tidied.from_config({"margin": 0.25, "power": 2, "mode": "soft"})
    assert (loss.margin, loss.published_code) == (0.25, False)
    assert not {"power", "mode"} & loss.get_config().keys()
    assert Tidied.from_config({"margin": 0.75}).margin == 0.75


def test_removed_options_become_what_replaces_them():
    loss = Tidied.from_config({"margin": 0.25, "power": 1, "mode": "hard"})
    assert (loss.margin, loss.published_code) == (0.25, True)


def test_other_values_of_removed_options_are_refused():
    text = (
        r"Tidied no longer takes \['power'\]\. Expected in an older config: \{'power': 2, 'mode': 'soft'\}, or "
        r"\{'power': 1, 'mode': 'hard'\}, which is now \{'published_code': True\}\. Received: \{'power': 1\}\."
    )
    with pytest.raises(ValueError, match=text):
        Tidied.from_config({"power": 1, "mode": "soft"})


class Inside(LossLayer):
    """A layer within, and no `build` of its own: Keras traces `call` to make its weights."""

    takes = ("row_weights",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(1)

    def compute(self, embeddings, labels, row_weights=None):
        return ops.mean(self.dense(embeddings))


@pytest.mark.filterwarnings("error:Layer 'inside")
def test_layers_inside_are_built_without_a_build_of_ones_own():
    for extras in ({}, {"row_weights": np.ones(3, "float32")}):
        loss = Inside()
        loss(X, LABELS, **extras)
        assert len(loss.weights) == 2


def test_rejects_a_loss_without_compute():
    with pytest.raises(NotImplementedError, match=r"LossLayer must define `compute\(embeddings, labels\)`"):
        LossLayer()(X, LABELS)


def test_signature_of_a_foreign_layer_is_read():
    class Foreign(keras.layers.Layer):
        def call(self, embeddings, labels, heads=None):
            return ops.mean(embeddings)

    class OldStyle(LossLayer):
        def call(self, embeddings, labels, references=None):
            return ops.mean(embeddings)

    assert call_arguments(Foreign()) == {"embeddings", "labels", "heads"}
    assert "heads" in call_arguments(Foreign)
    assert "references" in call_arguments(OldStyle())
    assert call_arguments(Lengths) == {"embeddings", "labels", "row_weights", "training"}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_what_a_loss_takes_is_what_compute_takes(name):
    cls = LOSSES[name]
    assert cls.call is LossLayer.call
    assert {"embeddings", "labels", *cls.takes} == set(inspect.signature(cls.compute).parameters) - {"self"}
