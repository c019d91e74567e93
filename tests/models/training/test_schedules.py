"""Learning rates by hand."""

import keras
import numpy as np
import pytest

from anchorage.errors import UsageError
from anchorage.training.schedules import WarmupDecay


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("constant", [0.5, 1, 1.5, 2, 2, 2, 2, 2, 2]),
        ("linear", [0.5, 1, 1.5, 2, 2, 1.55, 1.1, 0.2, 0.2]),
        ("cosine", [0.5, 1, 1.5, 2, 2, 0.2 + 0.9 * (1 + np.cos(np.pi / 4)), 1.1, 0.2, 0.2]),
    ],
)
def test_rates_follow_the_shape_of_the_schedule(shape, expected):
    rate = WarmupDecay(2.0, total_steps=12, shape=shape, warmup_steps=4, final_share=0.1)
    found = [float(rate(step)) for step in (0, 1, 2, 3, 4, 6, 8, 12, 50)]
    assert found == pytest.approx(expected, abs=1e-6)


def test_saved_with_its_optimizer():
    optimizer = keras.optimizers.SGD(WarmupDecay(0.1, 10, shape="linear", warmup_steps=2, final_share=0.5))
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    rates = [float(o._learning_rate(7)) for o in (optimizer, again)]
    assert rates == pytest.approx([0.1 * (0.5 + 0.5 * (1 - 5 / 8))] * 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": "step"}, r"E_NAME_UNKNOWN: Unknown schedule 'step'\. Known: \['constant', 'cosine', 'linear'\]"),
        ({"final_share": 1.5}, "E_SCHEDULE: `final_share` must lie in"),
        ({"warmup_steps": 10}, "E_SCHEDULE: `warmup_steps` must be less than the 10 steps"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(UsageError, match=message):
        WarmupDecay(0.1, total_steps=10, **arguments)
