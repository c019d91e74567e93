"""What TensorBoard's HParams page gets of a trial; its own reader is the judge."""

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from anchorage.tuning.hparams import log_trial
from anchorage.tuning.record import Trial


def test_a_trial_has_its_values_its_curve_and_its_metrics(tmp_path):
    values = {"loss": "nca", "loss.choices.0.params.scale": 2.5, "encoder.frozen_norm": True}
    log_trial(
        tmp_path,
        Trial(3, values, "completed", "", 0.5, (0.25, 0.5), (100, 200), metrics={"recall@1": 0.75}),
    )
    [run] = tmp_path.iterdir()
    assert run.name == "trial-003"
    events = EventAccumulator(str(run), size_guidance={"tensors": 0})
    events.Reload()
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    assert found["loss"].string_value == "nca"
    assert found["loss.choices.0.params.scale"].number_value == 2.5
    assert found["encoder.frozen_norm"].bool_value is True

    def series(name):
        return [
            (event.step, pytest.approx(tf.make_ndarray(event.tensor_proto).item())) for event in events.Tensors(name)
        ]

    assert series("curve/map@r") == [(100, 0.25), (200, 0.5)]
    assert series("map@r") == [(200, 0.5)]
    assert series("recall@1") == [(200, 0.75)]


def test_a_failed_trial_has_its_values(tmp_path):
    log_trial(tmp_path, Trial(0, {"margin": 0.1}, "failed", "the loss became nan"))
    assert [run.name for run in tmp_path.iterdir()] == ["trial-000"]
