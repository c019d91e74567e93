"""Half precision: no loss turns an encoder under a float16 or bfloat16 policy into nan, over 200 steps."""

import keras
import numpy as np
import pytest
from keras import ops

from anchorage.learner import MetricLearner
from anchorage.losses import LOSSES, create_loss

STEPS, ROWS, DIM, CLASSES = 200, 12, 4, 4
# What `make test` trains, in float16, whose range is the smaller one: a loss of each kind.
KEPT = ("cross_batch_memory", "multi_proxy_anchor", "multi_similarity")


def is_thorough(item):
    return item.callspec.params["policy"] == "mixed_bfloat16" or item.callspec.params["name"] not in KEPT


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_two_hundred_steps_without_nan(name, policy):
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(ROWS) % CLASSES, STEPS)
    images = rng.normal(size=(CLASSES, 6))[labels] + rng.normal(size=(len(labels), 6))
    loss = create_loss(name, num_classes=CLASSES)
    learner = MetricLearner(keras.Sequential([keras.Input((6,)), keras.layers.Dense(DIM)]), loss)
    every_step = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: values.append(logs["loss"]))
    values = []
    # Twenty steps at once where the backend loops over them; the mean of their losses is nan if one of them is.
    at_once = 20 if keras.backend.backend() == "tensorflow" else 1
    learner.compile(optimizer=keras.optimizers.Adam(0.01), steps_per_execution=at_once)
    learner.fit(images.astype("float32"), labels, batch_size=ROWS, shuffle=False, verbose=0, callbacks=[every_step])
    assert len(values) == STEPS // at_once
    assert np.isfinite(values).all()
    assert keras.backend.standardize_dtype(learner.encoder(images[:2]).dtype) == policy.removeprefix("mixed_")
    for variable in learner.trainable_variables:
        assert keras.backend.standardize_dtype(variable.dtype) == "float32"
        assert np.isfinite(ops.convert_to_numpy(variable.value)).all(), variable.path
