"""Loggers: what they write of a training."""

import json

import keras
import pytest

from anchorage.errors import UsageError
from anchorage.training.loggers import LOGGERS, create_logger, flatten
from anchorage.training.run import train_run
from anchorage.training.settings import Part


class Epochs(keras.callbacks.Callback):
    """A user's callback: writes the numbers that Keras counts epochs by, and the names of the metrics."""

    def __init__(self, path):
        super().__init__()
        self.path, self.seen = path, []

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append([epoch, sorted(logs)])

    def on_train_end(self, logs=None):
        with open(self.path, "w") as file:  # noqa: PTH123
            json.dump(self.seen, file)


def wandb_records(data):
    """The records of a `.wandb` file: LevelDB's log format after 7 bytes, in blocks of 32 KiB."""
    place, record = 7, b""
    while place + 7 <= len(data):
        if 32_768 - place % 32_768 < 7:  # no room for the head of a piece
            place += 32_768 - place % 32_768
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or its last piece
            yield record
            record = b""


@pytest.fixture(scope="module")
def train(store, validation_store, settings):
    """Trains two epochs with the given loggers; returns the history."""

    def train(folder, *loggers):
        arguments = settings(epochs=2, steps_per_epoch=2, loggers=list(loggers))
        return train_run(store, validation_store, **arguments, log_folder=folder / "logs").result.history

    return train


@pytest.fixture(scope="module")
def logged(train, tmp_path_factory):
    """The folder and the history of a training with several loggers."""
    folder = tmp_path_factory.mktemp("logged")
    loggers = [
        {"name": "mlflow"},
        {"name": f"{__name__}:Epochs", "params": {"path": str(folder / "seen.json")}},
        {"name": "keras.callbacks:CSVLogger", "params": {"filename": str(folder / "log.csv")}},
    ]
    return folder, train(folder, *loggers)


def test_settings_by_the_path_of_their_key():
    settings = {"loss": {"name": "triplet", "params": {"margin": 0.2}}, "methods": [{"name": "a"}], "seed": 3}
    assert dict(flatten(settings)) == {
        "loss.name": "triplet",
        "loss.params.margin": 0.2,
        "methods.0.name": "a",
        "seed": 3,
    }


def test_tensorboard_is_the_default(store, settings, tmp_path):
    train_run(store, None, **settings(epochs=1, steps_per_epoch=1), log_folder=tmp_path)
    assert list(tmp_path.rglob("events.out.tfevents.*"))
    assert [path.name for path in tmp_path.iterdir()] == ["tensorboard"]


def test_no_loggers_write_nothing(store, settings, tmp_path):
    train_run(store, None, **settings(epochs=1, steps_per_epoch=1, loggers=[]), log_folder=tmp_path / "logs")
    assert not (tmp_path / "logs").exists()


def test_a_keras_callback_by_its_dotted_name(logged):
    folder, history = logged
    names = sorted(set(history[1]) - {"epoch"})
    assert {"loss", "val_map@r"} <= set(names)
    assert json.loads((folder / "seen.json").read_text()) == [[0, names], [1, names]]


def test_the_callback_of_keras_for_csv_files(logged):
    folder, history = logged
    lines = (folder / "log.csv").read_text().splitlines()
    assert [float(line.split(",")[lines[0].split(",").index("val_map@r")]) for line in lines[1:]] == pytest.approx(
        [row["val_map@r"] for row in history[1:]]
    )


def test_a_class_that_is_no_callback_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"E_NAME_UNKNOWN: Expected a subclass of .*Callback"):
        create_logger(Part("keras.layers:Dense"), tmp_path, {})


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_names_the_extra(monkeypatch, tmp_path, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=rf"E_EXTRA_MISSING: .*uv sync --extra cpu --extra {name}`"):
        create_logger(Part(name), tmp_path, {})


def test_loggers_write_nothing_before_the_training(tmp_path):
    create_logger(Part("tensorboard"), tmp_path, {})
    assert sorted(LOGGERS) == ["mlflow", "tensorboard", "wandb"]
    assert not list(tmp_path.iterdir())


def test_mlflow_gets_settings_and_every_epoch(logged):
    from mlflow import tracking

    folder, history = logged
    client = tracking.MlflowClient(f"sqlite:///{folder / 'logs' / 'mlruns' / 'mlflow.db'}")
    [run] = client.search_runs([client.get_experiment_by_name("anchorage").experiment_id])
    assert run.info.status == "FINISHED"
    assert (run.data.params["seed"], run.data.params["training.epochs"]) == ("3", "2")
    values = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "val_map_at_r")}
    assert values == {row["epoch"]: row["val_map@r"] for row in history}
    losses = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "loss")}
    assert losses == pytest.approx({row["epoch"]: row["loss"] for row in history[1:]})


def test_a_training_that_fails_is_a_failed_run_of_mlflow(train, tmp_path, monkeypatch):
    from mlflow import tracking

    monkeypatch.setattr("anchorage.learner.MetricLearner.fit", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, {"name": "mlflow"})
    client = tracking.MlflowClient(f"sqlite:///{tmp_path / 'logs' / 'mlruns' / 'mlflow.db'}")
    [run] = client.search_runs([client.get_experiment_by_name("anchorage").experiment_id])
    assert run.info.status == "FAILED"


@pytest.mark.thorough
def test_wandb_gets_settings_and_every_epoch_offline(train, tmp_path):
    from wandb.proto.wandb_internal_pb2 import Record

    history = train(tmp_path, {"name": "wandb"})
    [file] = (tmp_path / "logs" / "wandb").rglob("offline-run-*/*.wandb")
    rows, config = {}, {}
    for data in wandb_records(file.read_bytes()):
        record = Record.FromString(data)
        items = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        if "val_map@r" in items:
            rows[items["epoch"]] = items["val_map@r"]
        config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    assert rows == pytest.approx({row["epoch"]: row["val_map@r"] for row in history})
    assert (config["seed"], config["training"]["epochs"]) == (3, 2)
