"""From settings to a learner: what each part gets to know, and where an error is said to lie."""

from contextlib import contextmanager

import numpy as np
import pytest

from anchorage.data.store import RecordSpec
from anchorage.training.building import DataFacts, build_training
from anchorage.training.settings import RunSettings, Sections

FACTS = DataFacts(np.repeat(np.arange(8), 3), [3] * 8, RecordSpec(16))
RUN = {
    "encoder": {"name": "small", "embedding_size": 8, "params": {"widths": [4, 8]}},
    "loss": {"name": "multi_proxy_anchor"},
    "training": {
        "epochs": 4,
        "sampler": {"name": "class_batches", "params": {"classes": 4, "per_class": 2}},
        "optimizer": {"name": "sgd", "learning_rate": 0.1, "schedule": "linear"},
        "methods": [{"name": "moving_average"}],
    },
    "seed": 3,
}


class Noting(Sections):
    """Notes what went wrong, by the path of the section."""

    def __init__(self):
        self.failed = {}

    @contextmanager
    def at(self, path):
        try:
            yield
        except Exception as error:
            self.failed.setdefault(path, str(error))

    def require_all(self):
        if self.failed:
            raise InterruptedError


def build(sections=None, **changes):
    training = {**RUN["training"], **changes.pop("training", {})}
    return build_training(RunSettings.from_dict({**RUN, **changes, "training": training}), FACTS, sections)


def failures(**changes):
    sections = Noting()
    with pytest.raises(InterruptedError):
        build(sections, **changes)
    return sections.failed


def test_settings_and_facts_reach_the_parts():
    learner, sampler, steps_per_epoch, loggers = build(loss={"name": "soprc", "params": {"prior_mul": 0.5}})
    assert learner.encoder.output_shape == (None, 8)
    assert learner.loss_layer.num_classes == 8
    assert learner.loss_layer.class_counts == [3] * 8
    assert [type(method).__name__ for method in learner.methods] == ["MovingAverage"]
    assert loggers == []  # there is no log folder
    assert (sampler.batch_size, steps_per_epoch) == (8, 2)  # 8 classes, 4 a batch
    schedule = learner.optimizer.get_config()["learning_rate"]["config"]
    assert (schedule["total_steps"], schedule["learning_rate"]) == (8, 0.1)
    assert build(training={"steps_per_epoch": 5}).steps_per_epoch == 5


def test_the_same_settings_give_the_same_weights():
    first, second, other = (build(seed=seed).learner.get_weights() for seed in (3, 3, 4))
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)
    assert any(not np.array_equal(one, three) for one, three in zip(first, other, strict=True))


def test_weights_are_named_after_the_learner():
    learner = build().learner
    paths = [weight.path for weight in [*learner.loss_layer.weights, *learner.methods[0].weights]]
    assert {path.split("/")[0] for path in paths} == {learner.name}


def test_every_section_is_tried_before_any_error_counts():
    wrong = {
        "encoder": {**RUN["encoder"], "pooling": "min"},
        "loss": {"name": "multi_proxy_anchor", "params": {"alpha": -1.0}},
        "training": {
            "sampler": {"name": "class_batches", "params": {"classes": 99, "per_class": 2}},
            "optimizer": {"name": "lion", "learning_rate": 0.1},
            "methods": [{"name": "moving_average", "params": {"momentum": 2.0}}, {"name": "moving_avrage"}],
        },
    }
    expected = {
        "training.sampler": "E_TOO_FEW_CLASSES",
        "training.methods.0": "`momentum`",
        "training.methods.1": "'moving_avrage'",
        "encoder": "'min'",
        "loss": "`alpha`",
        "training.optimizer": "'lion'",
    }
    found = failures(**wrong)
    assert set(found) == set(expected)
    assert all(expected[path] in found[path] for path in expected)


@pytest.mark.parametrize(
    ("changes", "path", "expected"),
    [
        (
            {
                "encoder": {**RUN["encoder"], "head": {"name": "ensemble", "params": {"members": 2}}},
                "loss": {"name": "ensemble"},
            },
            "loss",
            "Expected one head for each of 3 members",
        ),
        (
            {"loss": {"name": "contrastive"}, "training": {"methods": [{"name": "proxy_synthesis"}]}},
            "training.methods.0",
            "Expected a loss with one proxy per class",
        ),
        (
            {"training": {"optimizer": {"name": "sgd", "learning_rate": 0.1, "frozen_steps": {"trunc": 1}}}},
            "training.optimizer",
            "names the group 'trunc'",
        ),
    ],
)
def test_parts_that_do_not_go_together_are_the_fault_of_the_later_one(changes, path, expected):
    found = failures(**changes)
    assert list(found) == [path]
    assert expected in found[path]
