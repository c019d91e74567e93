"""Two replicas against one device: two virtual CPUs, in a process of their own because devices are set only once."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest

from models.errors import UsageError
from models.training.distribution import gather_rows, replicas, strategy_scope

TRAIN = """
import json
import sys

import keras
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from models.learner import MetricLearner
from models.losses import create_loss
from models.methods import create_methods
from models.training.distribution import replicas, strategy_scope
from models.training.optimizers import create_optimizer

random = np.random.default_rng(0)
images, labels = random.normal(size=(64, 6)).astype("float32"), (np.arange(64) % 5).astype("int32")


def train(strategy, name, params):
    keras.utils.set_random_seed(1)
    with strategy_scope(strategy):
        encoder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8), keras.layers.UnitNormalization()])
        methods = create_methods([{"name": "moving_average"}])
        learner = MetricLearner(encoder, create_loss(name, params, num_classes=5), methods)
        learner.compile(create_optimizer("adam", 1e-2, {"proxies": 10.0}))
        learner.build((None, 6))
        count = replicas()
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(16).repeat()
    history = learner.fit(data, epochs=5, steps_per_epoch=10, verbose=0).history["loss"]
    return count, history, [keras.ops.convert_to_numpy(v).tolist() for v in learner.variables]


losses = {
    "contrastive": {},
    "multi_proxy_anchor": {},
    "cross_batch_memory": {"loss": {"name": "contrastive"}, "memory_size": 32},
    "soprc": {},
}
print(json.dumps({name: [train(s, name, p) for s in ("", "mirrored")] for name, p in losses.items()}))
"""


@pytest.mark.slow
def test_two_replicas_train_as_one_device_with_the_joined_batch():
    done = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, (alone, together) in json.loads(done.stdout.splitlines()[-1]).items():
        assert (alone[0], together[0]) == (1, 2)
        np.testing.assert_allclose(together[1], alone[1], rtol=1e-5, err_msg=name)  # the loss of every epoch
        for ours, theirs in zip(together[2], alone[2], strict=True):  # weights, proxies, memories after 50 steps
            np.testing.assert_allclose(ours, theirs, atol=1e-4, err_msg=name)


TRAIN_ON_STORE = """
import json
import sys

import keras
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from models.data.store import RecordStore
from models.errors import UsageError
from models.training.run import train_run


def trunk(pixels, weights=None):  # without batch normalisation, which each replica does by itself
    return keras.layers.Conv2D(4, 3, activation="relu")(keras.layers.Rescaling(1 / 255)(pixels))


def train(strategy, per_class):
    sampler = {"name": "class_batches", "params": {"classes": 5, "per_class": per_class}}
    optimizer = {"name": "adam", "learning_rate": 1e-3}
    training = {"epochs": 2, "steps_per_epoch": 5, "sampler": sampler, "optimizer": optimizer, "strategy": strategy}
    training["augmentation"] = {"shift": 0.2, "rotation": 20.0}
    encoder = {"name": "__main__:trunk", "embedding_size": 8}
    loss = {"name": "multi_similarity"}
    run = train_run(store, other, encoder=encoder, loss=loss, training=training, seed=1, verbose=0)
    return run.result.history, [keras.ops.convert_to_numpy(w).tolist() for w in run.learner.encoder.weights]


store, other = map(RecordStore, sys.argv[1:])
answer = [train(strategy, 4) for strategy in ("", "mirrored")]
try:
    train("mirrored", 3)
except UsageError as error:
    answer.append(str(error))
print(json.dumps(answer))
"""


@pytest.mark.slow
def test_replicas_share_the_batches_of_a_store(store, validation_store):
    """Rows, and what augmentation does to each, hang on seed and step, not on how many replicas there are."""
    folders = [str(store.folder), str(validation_store.folder)]
    done = subprocess.run([sys.executable, "-c", TRAIN_ON_STORE, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    alone, together, refused = json.loads(done.stdout.splitlines()[-1])
    assert [row["loss"] for row in together[0]] == pytest.approx([row["loss"] for row in alone[0]], rel=1e-4)
    for ours, theirs in zip(together[1], alone[1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert "A batch of 15 rows cannot be dealt evenly to 2 replicas" in refused


def test_one_device_gathers_nothing():
    rows = keras.ops.ones((2, 3))
    with strategy_scope(""):
        assert replicas() == 1
        assert gather_rows({"rows": rows})["rows"] is rows


def test_unknown_strategy():
    with pytest.raises(UsageError, match="E_NAME_UNKNOWN"):
        strategy_scope("horovod")
