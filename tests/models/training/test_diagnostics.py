"""Training diagnostics: weights of pairs against losses whose gradient is known, proxies, sentences, collapse."""

import keras
import numpy as np
import pytest

from anchorage.errors import DataError
from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.training.diagnostics import TrainingDiagnostics, diagnose, gradient_shares, proxy_diagnostics
from anchorage.training.run import train_run

DIM, ROWS = 16, 8


@keras.saving.register_keras_serializable(package="tests")
class Pulls(keras.layers.Layer):
    """Every pair of one class pulls with 3, every other pushes with 1, but for those of the last item."""

    def call(self, embeddings, labels):
        similarities = keras.ops.matmul(embeddings, keras.ops.transpose(embeddings))
        same = keras.ops.equal(labels[:, None], labels[None, :])
        weights = keras.ops.where(same, -3.0, 1.0)
        counts = keras.ops.cast(keras.ops.arange(ROWS) < ROWS - 1, "float32")
        return 0.5 * keras.ops.sum(weights * similarities * counts[:, None] * counts[None, :])


class FakeStore:
    """Rows that are their own pictures."""

    def __init__(self, vectors, labels):
        self.vectors, self.labels = vectors, labels

    def read(self, rows):
        return self.vectors[rows]


class AllRows:
    def batch(self, step):
        return np.arange(ROWS)


def diagnostics_of(loss, vectors, labels):
    encoder = keras.Sequential([keras.Input((DIM,)), keras.layers.UnitNormalization()])
    learner = MetricLearner(encoder, loss)
    learner.compile("sgd")
    learner.build((None, DIM))
    return TrainingDiagnostics(FakeStore(vectors, labels), AllRows(), seed=0), learner


@pytest.fixture
def batch():
    return np.random.default_rng(0).normal(size=(ROWS, DIM)).astype("float32"), np.repeat(np.arange(4), 2)


def test_shares_of_a_loss_with_known_weights(batch):
    """Seven items teach: 3 pairs of a class (both ways 6), 36 others; 56 ordered pairs in all."""
    diagnostics, learner = diagnostics_of(Pulls(), *batch)
    found = diagnostics.measure(learner, 1)
    assert found["active_pairs"] == pytest.approx(42 / 56)
    assert found["positive_gradient_share"] == pytest.approx(6 * 3 / (6 * 3 + 36 * 1), rel=1e-4)


def test_shares_of_a_proxy_loss_with_known_weights(batch):
    """Normalised softmax: the weight of item i and proxy c is p_ic - 1 for the own class, p_ic for another."""
    loss = create_loss(
        "softmax",
        {"normalize": True, "normalize_weight": True, "use_bias": False, "temperature": 0.25},
        num_classes=4,
        embedding_size=DIM,
    )
    diagnostics, learner = diagnostics_of(loss, *batch)
    loss.proxies.assign(np.random.default_rng(1).normal(size=(4, DIM)))
    found = diagnostics.measure(learner, 1)
    vectors = batch[0] / np.linalg.norm(batch[0], axis=1, keepdims=True)
    proxies = keras.ops.convert_to_numpy(loss.proxies)
    proxies = proxies / np.linalg.norm(proxies, axis=1, keepdims=True)
    logits = 4.0 * vectors @ proxies.T
    weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(4)[batch[1]]
    own = np.eye(4, dtype=bool)[batch[1]]
    assert found["positive_gradient_share"] == pytest.approx(
        np.abs(weights)[own].sum() / np.abs(weights).sum(), rel=2e-3
    )
    assert found["active_pairs"] == 1.0


def test_looking_changes_nothing(batch):
    loss = create_loss("cross_batch_memory", {"loss": {"name": "contrastive"}, "memory_size": 16})
    diagnostics, learner = diagnostics_of(loss, *batch)
    learner.train_on_batch(*batch)
    before = [keras.ops.convert_to_numpy(v) for v in learner.variables]
    diagnostics.measure(learner, 1)
    for old, new in zip(before, learner.variables, strict=True):
        np.testing.assert_array_equal(old, new)


def test_no_gradient_leaves_no_active_pair():
    assert gradient_shares(np.zeros(6), np.ones(6, bool)) == {"active_pairs": 0.0}


def test_proxies_by_hand():
    vectors = np.array([[1.0, 0.0], [0.0, 1.0]])
    # class 0 has (1, 0) and a proxy nobody is near; class 1 has one at 45 degrees and one pointing away
    proxies = np.array([[2.0, 0.0], [-1.0, 0.0], [1.0, 1.0], [0.0, -1.0]])
    found = proxy_diagnostics(vectors, np.array([0, 1]), proxies, np.array([0, 0, 1, 1]))
    assert found["dead_proxies"] == pytest.approx(0.5)
    assert found["proxy_distance"] == pytest.approx((0.0 + 1.0 - np.sqrt(0.5)) / 2)


def test_anomalies_are_described_in_sentences():
    well = {"effective_rank": 40.0, "active_pairs": 0.5, "positive_gradient_share": 0.5, "dead_proxies": 0.0}
    assert list(diagnose(well)) == []
    ill = {"effective_rank": 1.2, "active_pairs": 0.004, "positive_gradient_share": 0.001, "dead_proxies": 0.8}
    found = dict(diagnose(ill))
    assert list(found) == ["effective_rank", "active_pairs", "positive_gradient_share", "dead_proxies"]
    assert "0.4%" in found["active_pairs"]
    assert "negative pairs" in found["positive_gradient_share"]


def test_a_sign_that_is_odd_for_three_epochs_is_noted_once(batch, capsys):
    diagnostics, learner = diagnostics_of(Pulls(), *batch)
    anomalous, well = {"dead_proxies": 1.0}, {"dead_proxies": 0.2}
    measured = iter([anomalous, well, *[anomalous] * 4, well, *[anomalous] * 3])
    diagnostics.measure = lambda learner, step: next(measured)
    history, said = [anomalous], []  # what is anomalous before the first step does not count
    for epoch in range(1, 11):
        history.append(diagnostics.after_epoch(learner, epoch, history))
        said.append(capsys.readouterr().out.count("not the nearest proxy of any item"))
    assert said == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_the_warm_up_is_allowed_to_be_odd(batch, capsys):
    diagnostics, learner = diagnostics_of(Pulls(), *batch)
    anomalous = {"dead_proxies": 1.0}
    diagnostics.measure = lambda learner, step: anomalous
    for epoch in range(1, 6):
        diagnostics.after_epoch(learner, epoch, [anomalous] * epoch, after_warm_up=4)
    assert not capsys.readouterr().out
    diagnostics.after_epoch(learner, 6, [anomalous] * 6, after_warm_up=4)
    assert "100% of the proxies" in capsys.readouterr().out


def test_nothing_is_odd_while_validation_improves(batch, capsys):
    diagnostics, learner = diagnostics_of(Pulls(), *batch)
    anomalous = {"dead_proxies": 1.0}
    diagnostics.measure = lambda learner, step: dict(anomalous)
    history, said = [{**anomalous, "val_map@r": 0.1}], []
    for epoch, value in enumerate([0.2, 0.3, 0.4, 0.5, 0.4, 0.4, 0.4, 0.4], start=1):
        history.append({**diagnostics.after_epoch(learner, epoch, history), "val_map@r": value})
        said.append(capsys.readouterr().out.count("not the nearest proxy of any item"))
    assert said == [0, 0, 0, 0, 0, 0, 0, 1]  # the best of epoch 4 is three epochs back after epoch 7


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(1.0, r"E_COLLAPSED.*same embedding \(mean cosine 1.0"), (0.0, "E_COLLAPSED.*have been zero for")],
)
def test_a_collapsed_training_stops_with_a_reason(batch, factor, expected):
    diagnostics, learner = diagnostics_of(Pulls(), factor * np.ones((ROWS, DIM), "float32"), batch[1])
    well = {"effective_rank": 8.0, "mean_cosine": 0.1}
    first = diagnostics.after_epoch(learner, 1, [well])
    assert first["mean_cosine"] == pytest.approx(factor)
    # As after an interruption: only the history is left.
    again, _ = diagnostics_of(Pulls(), diagnostics.store.vectors, batch[1])
    with pytest.raises(DataError, match=expected):
        again.after_epoch(learner, 2, [well, first])


def test_a_network_that_starts_as_one_point_gets_two_epochs(batch):
    diagnostics, learner = diagnostics_of(Pulls(), np.ones((ROWS, DIM), "float32"), batch[1])
    start = diagnostics.measure(learner, 0)
    first = diagnostics.after_epoch(learner, 1, [start])
    with pytest.raises(DataError, match="E_COLLAPSED"):
        diagnostics.after_epoch(learner, 2, [start, first])


def test_two_collapsed_epochs_must_follow_each_other(batch):
    diagnostics, learner = diagnostics_of(Pulls(), np.ones((ROWS, DIM), "float32"), batch[1])
    well = {"effective_rank": 8.0, "mean_cosine": 0.1}
    ill = diagnostics.after_epoch(learner, 1)
    assert diagnostics.after_epoch(learner, 3, [ill, well]) == ill


def test_one_image_is_not_a_collapse():
    diagnostics, learner = diagnostics_of(Pulls(), np.ones((1, DIM), "float32"), np.zeros(1, int))
    diagnostics.measure = lambda learner, step: {"effective_rank": 0.0, "mean_cosine": 0.0}
    assert diagnostics.after_epoch(learner, 2, [diagnostics.after_epoch(learner, 1)])["mean_cosine"] == 0.0


def test_rejects_embeddings_that_are_not_finite(batch):
    diagnostics, learner = diagnostics_of(Pulls(), np.where(np.eye(ROWS, DIM) > 0, np.nan, batch[0]), batch[1])
    with pytest.raises(FloatingPointError, match="embeddings became NaN"):
        diagnostics.after_epoch(learner, 1)


def test_logged_in_every_epoch(store, validation_store, settings):
    result = train_run(store, validation_store, **settings(epochs=2)).result
    names = {
        "effective_rank",
        "mean_cosine",
        "active_pairs",
        "positive_gradient_share",
        "proxy_distance",
        "dead_proxies",
    }
    assert len(result.history) == 3
    for row in result.history:
        assert names <= set(row)
        assert 0 < row["effective_rank"] <= 8
        assert 0 <= row["dead_proxies"] <= 1
