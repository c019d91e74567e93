"""MetricLearner: training, saving, loading, dict outputs, mixed precision."""

import keras
import numpy as np
import pytest

from anchorage.learner import MetricLearner
from anchorage.losses import create_loss
from anchorage.training.optimizers import create_optimizer

ROWS, DIM, CLASSES = 12, 8, 4


@pytest.fixture
def batch():
    rng = np.random.default_rng(1)
    return rng.normal(size=(ROWS, DIM)).astype("float32"), np.arange(ROWS, dtype="int32") % CLASSES


def encoder(**dense):
    return keras.Sequential([keras.Input((DIM,)), keras.layers.Dense(5, **dense)])


def learner_with_proxies(**options):
    learner = MetricLearner(encoder(), create_loss("multi_proxy_anchor", num_classes=CLASSES))
    learner.compile(create_optimizer("adamw", 1e-2, {"proxies": 10.0}, weight_decay=1e-3), **options)
    return learner


def test_fit_trains_encoder_and_proxies(batch):
    learner = learner_with_proxies()
    learner.build((None, DIM))
    before = [w.numpy() for w in learner.trainable_variables]
    history = learner.fit(*batch, batch_size=ROWS, epochs=8, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert all(np.any(a != b.numpy()) for a, b in zip(before, learner.trainable_variables, strict=True))


@pytest.mark.filterwarnings("error::UserWarning")
def test_loaded_learner_takes_the_same_next_steps(batch, tmp_path):
    learner = learner_with_proxies()
    learner.train_on_batch(*batch)
    learner.save(tmp_path / "learner.keras")
    again = keras.models.load_model(tmp_path / "learner.keras")
    assert again.optimizer.rate_factors == {"proxies": 10.0}
    for _ in range(2):
        assert learner.train_on_batch(*batch) == again.train_on_batch(*batch)
    pairs = zip(
        learner.variables + learner.optimizer.variables, again.variables + again.optimizer.variables, strict=True
    )
    for ours, theirs in pairs:
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


def test_predict_gives_embeddings(batch):
    learner = learner_with_proxies()
    np.testing.assert_allclose(learner.predict(batch[0], verbose=0), learner.encoder(batch[0]), rtol=1e-5)


def test_weight_regularisers_of_the_encoder_count(batch):
    plain = MetricLearner(encoder(kernel_initializer="ones"), create_loss("contrastive"))
    ruled = MetricLearner(encoder(kernel_initializer="ones", kernel_regularizer="l2"), create_loss("contrastive"))
    for learner in (plain, ruled):
        learner.compile("sgd", run_eagerly=True)
    difference = ruled.evaluate(*batch, verbose=0) - plain.evaluate(*batch, verbose=0)
    assert difference == pytest.approx(0.01 * DIM * 5, rel=1e-4)  # Keras's l2 is 0.01 times the sum of squares


@keras.saving.register_keras_serializable(package="tests")
class WithLocal(keras.layers.Layer):
    """Takes one of the encoder's extra outputs and the training flag."""

    def call(self, embeddings, labels, local, training=None):
        return keras.ops.mean(embeddings) + 10.0 * keras.ops.mean(local) + (100.0 if training else 0.0)


def test_dict_outputs_reach_a_loss_that_names_them(batch, tmp_path):
    inputs = keras.Input((DIM,))
    zeros = keras.layers.Dense(3, kernel_initializer="zeros")(inputs)
    ones = keras.layers.Lambda(lambda x: 0 * x[:, :1] + 1, output_shape=(1,))(inputs)
    learner = MetricLearner(keras.Model(inputs, {"embeddings": zeros, "local": ones, "unused": ones}), WithLocal())
    learner.compile("sgd", run_eagerly=True)
    assert learner.evaluate(*batch, verbose=0) == pytest.approx(10.0)
    assert learner.train_on_batch(*batch) == pytest.approx(110.0)
    assert set(learner.predict(batch[0], verbose=0)) == {"embeddings", "local", "unused"}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_keeps_the_loss_in_float32(batch, policy):
    keras.config.set_dtype_policy(policy)
    try:
        learner = learner_with_proxies(run_eagerly=True)
    finally:
        keras.config.set_dtype_policy("float32")
    assert keras.backend.standardize_dtype(learner.encoder(batch[0]).dtype) == policy.removeprefix("mixed_")
    assert learner.loss_layer(learner.encoder(batch[0]), batch[1]).dtype == "float32"
    assert np.isfinite(learner.fit(*batch, batch_size=ROWS, epochs=5, verbose=0).history["loss"]).all()


def test_second_source_of_loss_is_refused(batch):
    learner = learner_with_proxies()
    learner.compile("sgd", loss="mse", run_eagerly=True)
    with pytest.raises(ValueError, match="`compile` without `loss`"):
        learner.train_on_batch(*batch)
    with pytest.raises(ValueError, match="`sample_weight`"):
        learner_with_proxies(run_eagerly=True).train_on_batch(*batch, sample_weight=np.ones(ROWS))
