"""Learning-rate factors and weight decay by group."""

import keras
import numpy as np
import pytest

from anchorage.errors import UsageError
from anchorage.losses import create_loss
from anchorage.training.optimizers import OPTIMIZERS, create_optimizer


@keras.saving.register_keras_serializable(package="tests")
class Two(keras.Model):
    """Two weights, one of them called proxies; constant gradient 1 for both."""

    def build(self, input_shape):
        self.kernel = self.add_weight(name="kernel", shape=(), initializer="ones")
        self.proxies = self.add_weight(name="proxies", shape=(), initializer="ones")

    def call(self, inputs):
        return keras.ops.mean(inputs) * (self.kernel + self.proxies)


def moved(optimizer, steps=1):
    model = Two(name="two")
    model.build((None, 1))
    optimizer.build(model.trainable_variables)
    for _ in range(steps):
        optimizer.apply([np.float32(1.0)] * 2)
    return 1.0 - float(model.kernel.numpy()), 1.0 - float(model.proxies.numpy())


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_factor_scales_the_step_of_its_group_only(name):
    decay = {"weight_decay": 0.0} if name == "adamw" else {}
    plain = moved(create_optimizer(name, 1e-3, **decay))
    kernel, proxies = moved(create_optimizer(name, 1e-3, {"proxies": 50.0, "absent": 2.0}, **decay))
    assert kernel == pytest.approx(plain[0], rel=1e-3)
    assert proxies == pytest.approx(50 * plain[1], rel=1e-3)


def test_proxies_get_no_weight_decay():
    # sgd: the weight loses lr * gradient + lr * decay * weight; proxies only the first
    kernel, proxies = moved(create_optimizer("sgd", 0.1, weight_decay=0.5))
    assert kernel == pytest.approx(0.05 + 0.1, rel=1e-5)
    assert proxies == pytest.approx(0.1, rel=1e-5)


def test_nothing_of_a_class_decays():
    for loss, named in {
        create_loss("margin", num_classes=3): "beta",
        create_loss("nivmf", num_classes=3): "concentrations",
    }.items():
        loss(np.eye(3, 4, dtype="float32"), np.arange(3))
        weight = next(weight for weight in loss.trainable_weights if weight.name == named)
        offset = keras.layers.BatchNormalization(name="norm")
        offset.build((None, 2))
        offset.beta.assign([1.0, 1.0])
        before = keras.ops.convert_to_numpy(weight)
        optimizer = create_optimizer("sgd", 0.1, weight_decay=0.5)
        optimizer.build([weight, offset.beta])
        optimizer.apply([np.zeros(weight.shape, "float32"), np.zeros(2, "float32")])
        np.testing.assert_array_equal(weight, before)
        np.testing.assert_allclose(offset.beta, 0.95)


def test_schedule_is_scaled_too():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.1, 0.01])
    assert moved(create_optimizer("sgd", schedule, {"proxies": 2.0}), steps=1)[1] == pytest.approx(0.2, rel=1e-5)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_saved_with_a_compiled_model(name, tmp_path):
    model = Two()
    model.compile(create_optimizer(name, 1e-3, {"proxies": 50.0}), loss="mse")
    model.train_on_batch(np.ones((2, 1)), np.zeros(2))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again.optimizer) is OPTIMIZERS[name]
    assert again.optimizer.get_config() == model.optimizer.get_config()
    for each in (model, again):
        each.train_on_batch(np.ones((2, 1)), np.zeros(2))
    assert float(again.proxies.numpy()) == float(model.proxies.numpy())


def test_loss_scaling_keeps_the_factors():
    kernel, proxies = moved(keras.optimizers.LossScaleOptimizer(create_optimizer("sgd", 0.1, {"proxies": 2.0}), 1.0))
    assert proxies == pytest.approx(2 * kernel, rel=1e-5)


def test_wrong_use_is_refused():
    with pytest.raises(UsageError, match=r"Unknown optimizer 'adan'. Known: .'adam'"):
        create_optimizer("adan", 0.1)
    with pytest.raises(UsageError, match=r"optimizer 'sgd' takes .*'momentum'.*Received unknown: \['moment'\]"):
        create_optimizer("sgd", 0.1, moment=0.9)
    with pytest.raises(ValueError, match=r"must not be negative. Received: 'proxies': -1"):
        create_optimizer("sgd", 0.1, {"proxies": -1.0})


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_frozen_group_waits_then_moves(name):
    options = {"weight_decay": 0.5, "groups": {"body": ["two/kernel"]}}
    held = [moved(create_optimizer(name, 1e-2, frozen_steps={"body": 2}, **options), steps=n) for n in (1, 2, 3)]
    free = [moved(create_optimizer(name, 1e-2, **options), steps=n) for n in (1, 2, 3)]
    assert [kernel for kernel, _ in held[:2]] == [0.0, 0.0]
    assert held[2][0] > 0.004  # the first step of its own, with decay
    assert [proxies for _, proxies in held] == [proxies for _, proxies in free]


def test_decay_of_a_group_that_was_frozen():
    # sgd, rate 0.1, decay 0.5, gradient 0.5 on the weight: nothing, then 0.05 + 0.05 * weight
    kernel, _ = moved(create_optimizer("sgd", 0.1, weight_decay=0.5, frozen_steps={"kernel": 1}), steps=2)
    assert kernel == pytest.approx(0.1 * 1.0 + 0.1 * 0.5 * 1.0, rel=1e-5)


def test_factors_reach_groups_named_by_path():
    kernel, proxies = moved(create_optimizer("sgd", 0.1, {"body": 3.0}, groups={"body": ["two/kernel"]}))
    assert (kernel, proxies) == (pytest.approx(0.3, rel=1e-5), pytest.approx(0.1, rel=1e-5))


def test_decay_goes_with_the_rate_of_the_group():
    # sgd, rate 0.1, decay 0.5, gradient 1 on a weight of 1: 0.1 f + 0.1 f * 0.5
    for factor in (0.0, 0.1, 3.0):
        kernel, _ = moved(create_optimizer("sgd", 0.1, {"kernel": factor}, weight_decay=0.5))
        assert kernel == pytest.approx(0.15 * factor, rel=1e-5)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_factor_of_zero_holds_a_group_still_for_good(name):
    kernel, proxies = moved(create_optimizer(name, 0.1, {"kernel": 0.0}, weight_decay=0.5), steps=3)
    assert kernel == 0.0
    assert proxies > 0.1


# Two gradients of 1: together of norm sqrt(2), each alone of norm 1.
@pytest.mark.parametrize(
    ("clipping", "kernel", "proxies"),
    [
        ({"clipnorm": 0.5}, 0.05, 0.05),
        ({"clipvalue": 0.25}, 0.025, 0.025),
        ({"global_clipnorm": 0.5}, 0.05 / np.sqrt(2), 0.05 / np.sqrt(2)),
        ({"global_clipnorm": 0.5, "rate_factors": {"kernel": 0.0}}, 0.0, 0.05),
        ({"global_clipnorm": 0.5, "frozen_steps": {"kernel": 1}}, 0.0, 0.05),
        ({"global_clipnorm": 0.5, "frozen_steps": {"kernel": 0, "absent": 1}}, 0.05 / np.sqrt(2), 0.05 / np.sqrt(2)),
    ],
)
def test_only_what_moves_counts_for_the_clipping(clipping, kernel, proxies):
    assert moved(create_optimizer("sgd", 0.1, **clipping)) == pytest.approx((kernel, proxies), rel=1e-5)


def test_a_group_that_was_frozen_counts_for_the_clipping_once_it_moves():
    optimizer = create_optimizer("sgd", 0.1, global_clipnorm=0.5, frozen_steps={"kernel": 1})
    assert moved(optimizer, steps=2) == pytest.approx((0.05 / np.sqrt(2), 0.05 + 0.05 / np.sqrt(2)), rel=1e-5)


def test_clipping_leaves_the_mean_gradient_of_a_frozen_group_something_to_start_from():
    # Adam's first own step after a frozen one is as long as any: the means know two gradients of the same size
    optimizer = create_optimizer("adam", 0.1, global_clipnorm=0.5, frozen_steps={"kernel": 1})
    assert moved(optimizer, steps=2)[0] == pytest.approx(0.1, rel=1e-3)


def test_accumulated_steps_are_one_with_the_mean_gradient():
    # sgd, rate 0.1, decay 0.5: the mean of 1 and 3 once, and decay once
    model = Two(name="two")
    model.build((None, 1))
    optimizer = create_optimizer("sgd", 0.1, {"kernel": 2.0}, weight_decay=0.5, gradient_accumulation_steps=2)
    optimizer.build(model.trainable_variables)
    optimizer.apply([np.float32(1.0)] * 2)
    assert (float(model.kernel.numpy()), float(model.proxies.numpy())) == (1.0, 1.0)
    optimizer.apply([np.float32(3.0)] * 2)
    assert float(model.kernel.numpy()) == pytest.approx(1.0 - 0.2 * 2.0 - 0.2 * 0.5, rel=1e-5)
    assert float(model.proxies.numpy()) == pytest.approx(1.0 - 0.1 * 2.0, rel=1e-5)


def test_keras_own_average_is_refused_with_the_way_to_do_it():
    with pytest.raises(UsageError, match=r"E_PARAMETER_UNKNOWN.*unknown: \['use_ema'\].*method 'moving_average'"):
        create_optimizer("adam", 0.1, use_ema=True)
    with pytest.raises(UsageError, match=r"\['ema_momentum', 'ema_overwrite_frequency'\].*moving_average"):
        create_optimizer("adam", 0.1, ema_momentum=0.9, ema_overwrite_frequency=10)


def test_a_group_is_found_whatever_number_keras_counts_up_to():
    for name in ("two", "two_7"):
        model = Two(name=name)
        model.build((None, 1))
        optimizer = create_optimizer("sgd", 0.1, {"two": 3.0})
        optimizer.build(model.trainable_variables)
        optimizer.apply([np.float32(1.0)] * 2)
        assert float(model.kernel.numpy()) == pytest.approx(0.7, rel=1e-5)


def test_groups_without_weights_are_refused():
    paths = ["stage_0_0/kernel", "learner_1/margin_loss_1/beta"]
    create_optimizer("sgd", 0.1, {"proxies": 2.0, "margin_loss": 2.0, "stage_0_0": 0.5}).check_groups(paths)
    options = {"groups": {"trunk": paths[:1]}}
    with pytest.raises(UsageError, match=r"E_NAME_UNKNOWN: `frozen_steps` names the group 'trunc'") as caught:
        create_optimizer("sgd", 0.1, frozen_steps={"trunc": 500}, **options).check_groups(paths)
    expected = "beta, learner, learner_1, margin_loss, margin_loss_1, proxies, trunk, or a part of a path in the trunk"
    assert f"Known: {expected}. Did you mean 'trunk'?" in str(caught.value)
    with pytest.raises(UsageError, match=r"`rate_factors` names the group 'prxies'.*Did you mean 'proxies'\?"):
        create_optimizer("sgd", 0.1, {"prxies": 10.0}).check_groups(paths)
