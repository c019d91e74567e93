"""The trials of a search for the HParams page of TensorBoard."""

import shutil
from pathlib import Path

from anchorage.tuning.record import Trial
from anchorage.tuning.settings import OBJECTIVE


def clear_trials(folder: str | Path) -> None:
    """Remove the runs that `log_trial` wrote for an earlier search or an interrupted one."""
    for run in Path(folder).glob("trial-*"):
        shutil.rmtree(run)


def log_trial(folder: str | Path, trial: Trial) -> None:
    """Write the values, the curve by samples seen and the metrics of a trial, as one run of TensorBoard.

    Args:
        folder: log folder; `tensorboard --logdir FOLDER` shows it.
        trial: a trial that has ended.
    """
    import tensorflow as tf
    from tensorboard.plugins.hparams import api

    name = f"trial-{trial.number:03d}"
    writer = tf.summary.create_file_writer(str(Path(folder) / name))
    with writer.as_default():
        api.hparams(dict(trial.values), trial_id=name)
        for samples, objective in zip(trial.samples, trial.curve, strict=True):
            tf.summary.scalar(f"curve/{OBJECTIVE}", objective, step=samples)
        if trial.score is not None:
            for metric, value in {**trial.metrics, OBJECTIVE: trial.score}.items():
                tf.summary.scalar(metric, value, step=trial.samples_seen)
    writer.close()
