"""Loggers, which write the metrics of each epoch to files; `LOGGERS` maps the names of an experiment file to classes.

Epochs have the numbers of the history: 0 is the network before the first step, the first trained epoch is 1. A training
that resumes from a checkpoint logs the epochs before it again where its logger starts a new record.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from anchorage.extras import require_package
from anchorage.registry import create
from anchorage.training.settings import Part

Row = Mapping[str, float]
_MLFLOW_BATCH = 100  # parameters in one call


class Logger(keras.callbacks.Callback):
    """Base class of the loggers.

    The constructor writes nothing. It gets by name `folder`, the log folder of the training, and `settings`, those of
    the training as plain values.
    """

    def start(self, history: Sequence[Row]) -> None:
        """Called before the first step with the rows so far: epoch 0, and those before an interruption."""
        for row in history:
            self.log(row)

    def log(self, row: Row) -> None:
        """Log one row of the history: `epoch` and the metrics by name."""
        raise NotImplementedError

    def close(self, failed: bool) -> None:
        """Called once after the last step; `failed` if the training ends with an error."""

    def on_epoch_end(self, epoch, logs=None):
        self.log({"epoch": epoch + 1, **(logs or {})})


class TensorBoard(keras.callbacks.TensorBoard, Logger):
    """Files for TensorBoard, in `tensorboard` below the log folder.

    Args:
        folder: log folder.
        histogram_freq: epochs between two histograms of the weights; 0 for none.
    """

    def __init__(self, folder: str, histogram_freq: int = 0):
        super().__init__(str(Path(folder) / "tensorboard"), histogram_freq=histogram_freq, write_graph=False)

    def start(self, history):
        self.log(history[-1])  # the others are in the files

    def log(self, row):
        metrics = dict(row)
        self._log_epoch_metrics(metrics.pop("epoch"), metrics)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch + 1, logs)


class MLflow(Logger):
    """A run in `mlruns/mlflow.db` below the log folder; the settings are its parameters, the seed among them.

    No server is needed; `mlflow ui --backend-store-uri sqlite:///PATH/mlruns/mlflow.db` shows the runs.
    MLflow allows no `@` in names: `val_recall@1` becomes `val_recall_at_1`.

    Args:
        folder: log folder.
        settings: settings of the training.
        experiment: name of MLflow's experiment.
    """

    def __init__(self, folder: str, settings: Mapping[str, Any], experiment: str = "anchorage"):
        super().__init__()
        for module in ("mlflow", "sqlalchemy", "alembic"):
            require_package(module, "mlflow")
        self.folder, self.settings, self.experiment = folder, settings, experiment

    def start(self, history):
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        folder = (Path(self.folder) / "mlruns").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self.client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        found = self.client.get_experiment_by_name(self.experiment)
        number = found.experiment_id if found else self.client.create_experiment(self.experiment, folder.as_uri())
        self.run_id = self.client.create_run(number).info.run_id
        params = [Param(name, str(value)) for name, value in flatten(self.settings)]
        for first in range(0, len(params), _MLFLOW_BATCH):
            self.client.log_batch(self.run_id, params=params[first : first + _MLFLOW_BATCH])
        super().start(history)

    def log(self, row):
        from mlflow.entities import Metric

        now, epoch = int(1000 * time.time()), int(row["epoch"])
        names = [name for name in row if name != "epoch"]
        metrics = [Metric(name.replace("@", "_at_"), float(row[name]), now, epoch) for name in names]
        self.client.log_batch(self.run_id, metrics=metrics)

    def close(self, failed):
        self.client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")


class WandB(Logger):
    """An offline run of Weights & Biases in `wandb` below the log folder; `wandb sync` uploads it.

    Args:
        folder: log folder.
        settings: settings of the training, which are the run's config.
        project: name of the project.
    """

    def __init__(self, folder: str, settings: Mapping[str, Any], project: str = "anchorage"):
        super().__init__()
        require_package("wandb")
        self.folder, self.settings, self.project = folder, settings, project

    def start(self, history):
        import wandb

        Path(self.folder).mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            mode="offline",
            dir=self.folder,
            project=self.project,
            config=dict(self.settings),
            reinit="create_new",  # the trainings of a procedure are runs of their own
            settings=wandb.Settings(silent=True, console="off"),
        )
        super().start(history)

    def log(self, row):
        self.run.log(dict(row), step=int(row["epoch"]))

    def close(self, failed):
        self.run.finish(exit_code=int(failed))


LOGGERS: dict[str, type[keras.callbacks.Callback]] = {
    "mlflow": MLflow,
    "tensorboard": TensorBoard,
    "wandb": WandB,
}


def create_logger(part: Part, folder: str | Path, settings: Mapping[str, Any]) -> keras.callbacks.Callback:
    """Create a logger.

    Args:
        part: a name in `LOGGERS`, or `"package.module:ClassName"` of a `Logger` or any other Keras callback, which then
            gets Keras' number of an epoch: 0 is the first trained one.
        folder: log folder.
        settings: settings of the training as plain values.

    Raises:
        UsageError: E_NAME_UNKNOWN, E_PARAMETER_UNKNOWN; E_EXTRA_MISSING with the extra to install.
    """
    facts = {"folder": str(folder), "settings": settings}
    return create(LOGGERS, part.name, part.params, facts, base=keras.callbacks.Callback)


def flatten(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The settings by the path of their key, such as `("loss.params.margin", 0.5)`, without empty tables."""
    if isinstance(settings, Mapping | list | tuple):
        items = settings.items() if isinstance(settings, Mapping) else enumerate(settings)
        for key, value in items:
            yield from flatten(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, settings
