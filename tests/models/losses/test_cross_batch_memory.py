"""CrossBatchMemoryLoss against a queue kept as a plain list, for every pair loss it takes."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchorage.learner import MetricLearner
from anchorage.losses import LOSSES
from anchorage.losses.base import call_arguments
from anchorage.losses.cross_batch_memory import CrossBatchMemoryLoss
from anchorage.losses.margin import MarginLoss
from anchorage.losses.smooth_ap import SmoothAPLoss
from anchorage.losses.triplet import TripletLoss
from anchorage.mining import PairMarginMiner


def units(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def contrastive(d, positive, negative):
    """Average over the pairs that cost something, of either kind."""
    pull = [value for value in d[positive] if value > 1e-5]
    push = [1 - value for value in d[negative] if value < 1]
    return (np.mean(pull) if pull else 0.0) + (np.mean(push) if push else 0.0)


@given(
    st.integers(1, 5),
    st.integers(0, 12),
    st.integers(1, 4),
    st.sampled_from(["before", "after"]),
    st.integers(0, 2**16),
)
def test_matches_a_plain_queue_over_many_batches(rows, more, classes, enqueue, seed):
    rng, size = np.random.default_rng(seed), rows + more
    loss = CrossBatchMemoryLoss(memory_size=size, enqueue=enqueue, dtype="float64")
    queue = []
    for step in range(6):
        embeddings, labels = rng.normal(size=(rows, 3)), rng.integers(0, classes, rows)
        batch = [(step * rows + i, row, label) for i, (row, label) in enumerate(zip(embeddings, labels, strict=True))]
        if enqueue == "before":
            queue = (queue + batch)[-size:]
        d = np.array([[np.linalg.norm(units(x) - units(y)) for _, y, _ in queue] for _, x, _ in batch])
        same = np.array([[a == b for *_, b in queue] for *_, a in batch], bool)
        own = np.array([[i == j for j, *_ in queue] for i, *_ in batch], bool)
        wanted = contrastive(d, same & ~own, ~same) if queue else 0.0
        assert float(loss(embeddings, labels)) == pytest.approx(wanted, rel=1e-6)
        if enqueue == "after":
            queue = (queue + batch)[-size:]


PAIR_LOSSES = sorted(name for name, loss in LOSSES.items() if "references" in call_arguments(loss))
# Where the defaults draw at random, or count a query among its own neighbours.
PARAMS = {"margin": {"mining": "all", "beta_per_class": False}, "roadmap": {"published_code": False}}


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_one_batch_in_the_memory_is_the_batch_itself(name):
    # The value is that of the loss alone; the gradient flows through the anchors only.
    rng, params = np.random.default_rng(3), PARAMS.get(name, {})
    embeddings, labels = rng.normal(size=(12, 4)), np.arange(12) % 4
    alone = LOSSES[name](**params, dtype="float64")
    size = 12 if name == "ranked_list" else 30  # it counts its columns
    memory = CrossBatchMemoryLoss(LOSSES[name](**params), memory_size=size, dtype="float64")
    assert float(memory(embeddings, labels)) == pytest.approx(float(alone(embeddings, labels)), rel=1e-9)


def test_weights_of_memory_and_batch():
    rng = np.random.default_rng(4)
    batches = [(rng.normal(size=(6, 3)), rng.integers(0, 3, 6)) for _ in range(2)]
    params = {"memory_size": 12, "enqueue": "after", "dtype": "float64"}
    both = CrossBatchMemoryLoss(**params, memory_weight=0.3, batch_weight=2.0)
    memory = CrossBatchMemoryLoss(**params)
    for batch in batches:
        wanted = 0.3 * float(memory(*batch)) + 2.0 * float(LOSSES["contrastive"](dtype="float64")(*batch))
        assert float(both(*batch)) == pytest.approx(wanted, rel=1e-9)


def test_a_boundary_for_each_class_is_trained():
    loss = CrossBatchMemoryLoss(MarginLoss(num_classes=3), memory_size=12)
    loss(np.eye(3), np.array([0, 1, 1]))
    assert [weight.shape for weight in loss.trainable_weights] == [(3,)]


@pytest.mark.parametrize("mining", ["all", "hard", "semi_hard", "batch_hard", "nearest_semi_hard"])
def test_triplets_with_a_memory_follow_their_mining(mining):
    rng = np.random.default_rng(5)
    embeddings, labels = rng.normal(size=(12, 4)), np.arange(12) % 4
    params = {"mining": mining, "margin": 0.3}
    memory = CrossBatchMemoryLoss(TripletLoss(**params), memory_size=20, dtype="float64")
    alone = LOSSES["triplet"](**params, dtype="float64")
    assert float(memory(embeddings, labels)) == pytest.approx(float(alone(embeddings, labels)), rel=1e-9)


def test_memory_stands_still_outside_training():
    embeddings, labels = np.eye(3), np.array([0, 0, 1])
    loss = CrossBatchMemoryLoss(memory_size=6)
    loss(embeddings, labels)
    before = [variable.numpy() for variable in loss.variables]
    loss(2 * embeddings, labels, training=False)
    for variable, value in zip(loss.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_memory_is_saved_and_not_trained(tmp_path):
    embeddings, labels = np.random.default_rng(1).normal(size=(6, 3)).astype("float32"), np.array([0, 0, 1, 1, 2, 2])
    encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    learner = MetricLearner(encoder, CrossBatchMemoryLoss(memory_size=9, miner=PairMarginMiner()))
    learner.compile(optimizer="sgd")
    learner.fit(embeddings, labels, batch_size=6, epochs=2, verbose=0)
    learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    assert not again.loss_layer.trainable_weights
    assert int(again.loss_layer.filled) == 9
    assert int(again.loss_layer.next_place) == 3
    np.testing.assert_array_equal(again.loss_layer.memory, learner.loss_layer.memory)
    assert again.train_on_batch(embeddings, labels) == learner.train_on_batch(embeddings, labels)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"memory_size": 0}, "`memory_size` must be a whole number, at least 1. Received: memory_size=0"),
        ({"batch_weight": -1.0}, "`batch_weight` must not be negative. Received: batch_weight=-1.0"),
        ({"enqueue": "never"}, "`enqueue` must be 'before' or 'after'. Received: enqueue='never'"),
        ({"loss": SmoothAPLoss()}, "`loss` must be a loss over pairs, one of .*'ContrastiveLoss'.*loss=SmoothAPLoss"),
        ({"loss": {"name": "contrastive"}}, "`loss` must be a Keras layer; `create_loss` makes layers .*Received: "),
        ({"miner": "pair_margin"}, "`miner` must be a Keras layer"),
    ],
)
def test_rejects_invalid_arguments(params, text):
    with pytest.raises(ValueError, match=text):
        CrossBatchMemoryLoss(**params)


def test_batch_larger_than_the_memory_is_refused():
    with pytest.raises(ValueError, match=r"at most `memory_size` = 2 items. Received: 3 embeddings"):
        CrossBatchMemoryLoss(memory_size=2)(np.eye(3), np.array([0, 1, 2]))
