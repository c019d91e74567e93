"""Combined losses take layers, and save them as Keras does."""

import keras
import numpy as np
import pytest

from anchorage.errors import UsageError
from anchorage.learner import MetricLearner
from anchorage.losses import LOSSES, create_loss
from anchorage.losses.base import LossLayer
from anchorage.losses.contrastive import ContrastiveLoss
from anchorage.losses.cross_batch_memory import CrossBatchMemoryLoss
from anchorage.losses.ensemble import EnsembleLoss
from anchorage.losses.hybrid import HybridLoss
from anchorage.losses.mined import MinedLoss
from anchorage.losses.nt_xent import NTXentLoss
from anchorage.losses.regularized import RegularizedLoss
from anchorage.losses.self_supervised import SelfSupervisedLoss
from anchorage.losses.softmax import SoftmaxLoss
from anchorage.losses.vicreg import VICRegLoss
from anchorage.mining import PairMarginMiner
from anchorage.regularizers import LpRegularizer

X = np.random.default_rng(1).normal(size=(8, 4)).astype("float32")
LABELS = np.array([0, 0, 1, 1, 2, 2, 3, 3])
PAIR, CLASSES = {"name": "contrastive", "params": {"neg_margin": 0.7}}, {"name": "softmax"}
CASES = {
    "mined": (
        lambda: MinedLoss(ContrastiveLoss(neg_margin=0.7), PairMarginMiner(neg_margin=0.5)),
        {"loss": PAIR, "miner": {"name": "pair_margin", "params": {"neg_margin": 0.5}}},
    ),
    "cross_batch_memory": (
        lambda: CrossBatchMemoryLoss(ContrastiveLoss(neg_margin=0.7), memory_size=16),
        {"loss": PAIR, "memory_size": 16},
    ),
    "regularized": (
        lambda: RegularizedLoss(SoftmaxLoss(4), LpRegularizer(), proxies_regularizer=LpRegularizer()),
        {"loss": CLASSES, "embeddings_regularizer": {"name": "lp"}, "proxies_regularizer": {"name": "lp"}},
    ),
    "ensemble": (
        lambda: EnsembleLoss([ContrastiveLoss(neg_margin=0.7), SoftmaxLoss(4)]),
        {"members": [PAIR, CLASSES]},
    ),
    "hybrid": (
        lambda: HybridLoss(pair=ContrastiveLoss(neg_margin=0.7), proxy=SoftmaxLoss(4)),
        {"pair": PAIR, "proxy": CLASSES},
    ),
    "self_supervised": (
        lambda: SelfSupervisedLoss(NTXentLoss(0.2)),
        {"loss": {"name": "nt_xent", "params": {"temperature": 0.2}}},
    ),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_layers_mean_what_the_tables_of_an_experiment_file_mean(name, tmp_path):
    make, params = CASES[name]
    loss, written = make(), create_loss(name, params, num_classes=4)
    value = float(loss(X, LABELS))
    for one, other in zip(loss.trainable_variables, written.trainable_variables, strict=False):
        other.assign(one)
    assert value == pytest.approx(float(written(X, LABELS)), rel=1e-6)
    assert [weight.shape for weight in loss.variables] == [weight.shape for weight in written.variables]
    again = type(loss).from_config(loss.get_config())
    assert again.get_config() == loss.get_config()
    in_double = type(loss).from_config({**loss.get_config(), "dtype": "float64"})
    parts = [part.dtype for part in in_double._flatten_layers() if isinstance(part, LossLayer)]
    assert set(parts) == {"float64"}

    learner = MetricLearner(keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)]), make())
    learner.compile(optimizer="sgd")
    learner.train_on_batch(X, LABELS)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    for ours, theirs in zip(learner.variables, loaded.variables, strict=True):
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(v.value) for v in (ours, theirs)))


TABLES = {"loss": PAIR, "miner": {"name": "pair_margin"}, "num_classes": 4}
OLDER = {
    "mined": TABLES,
    "cross_batch_memory": {**TABLES, "memory_size": 16},
    "regularized": {"loss": CLASSES, "embeddings_regularizer": {"name": "lp"}, "num_classes": 4},
    "ensemble": {"members": [PAIR, CLASSES], "num_classes": 4},
    "hybrid": {"pair": PAIR, "proxy": CLASSES, "num_classes": 4},
    "self_supervised": {"loss": {"name": "info_nce", "params": {"temperature": 0.2}}},
}


@pytest.mark.parametrize("name", sorted(OLDER))
def test_tables_in_the_config_of_an_older_file_become_layers(name):
    older = {"class_name": LOSSES[name].__name__, "config": OLDER[name], "module": None}
    loss = keras.saving.deserialize_keras_object({**older, "registered_name": f"anchorage>{older['class_name']}"})
    params = {key: value for key, value in OLDER[name].items() if key != "num_classes"}
    assert list(map(type, loss._flatten_layers())) == list(
        map(type, create_loss(name, params, num_classes=4)._flatten_layers())
    )
    assert np.isfinite(float(loss(X, LABELS)))


def test_options_that_are_gone_are_dropped_from_older_tables_alone(monkeypatch):
    monkeypatch.setattr(ContrastiveLoss, "_removed", {"bias": 0.0})
    table = {"name": "contrastive", "params": {"bias": 0.0, "neg_margin": 0.7}}
    assert MinedLoss.from_config({"loss": table}).inner.neg_margin == 0.7
    with pytest.raises(ValueError, match=r"ContrastiveLoss no longer takes \['bias'\]"):
        MinedLoss.from_config({"loss": {**table, "params": {"bias": 1.0}}})
    with pytest.raises(UsageError, match=r"Received unknown: \['bias'\]"):
        create_loss("mined", {"loss": table})


def test_number_of_classes_of_a_combined_loss_goes_to_its_parts():
    loss = create_loss("ensemble", {"members": [CLASSES, PAIR], "num_classes": 7}, num_classes=4)
    assert loss.members[0].num_classes == 7
    assert create_loss("mined", {"loss": {"name": "arcface"}}, num_classes=4).inner.num_classes == 4


def test_the_layer_given_is_the_one_used():
    inner = SoftmaxLoss(4)
    assert RegularizedLoss(inner).inner is inner
    with pytest.raises(ValueError, match=r"`loss` must be a loss over pairs, one of .*Received: loss=VICRegLoss"):
        CrossBatchMemoryLoss(VICRegLoss())
