"""The run function of the stock Trainer: trains a learner on record stores, and exports it."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging
from tfx.components.trainer.fn_args_utils import FnArgs

from anchorage.data.store import RecordStore
from anchorage.encoders.text import export_text_encoder, takes_text
from anchorage.learner import MetricLearner
from anchorage.procedures import run_training
from anchorage.release.manifest import TEXT
from anchorage.serving.export import export_encoder
from anchorage.storage import delete_tree, is_remote, join
from anchorage.training.fit import FitResult
from anchorage.tuning.trial_settings import trial_settings
from anchorage.untrained import untrained_encoders
from anchorage_components.artifacts import HISTORY, UNTRAINED
from anchorage_components.nodes import once_stored
from anchorage_components.parameters import from_parameter

LEARNER = "learner.keras"


def run_fn(fn_args: FnArgs) -> None:
    """Train, resuming from a checkpoint of an interrupted run, then export.

    The export consists of the SavedModel for serving and `learner.keras` (encoder, loss with its proxies, and
    optimizer) for further training. The run folder gets the history and, in `untrained`, the network before training,
    which the gate compares the trained one with. If the embeddings of an image-text
    encoder are still the pretrained ones, `text` in the export has the SavedModel of its text encoder.

    Args:
        fn_args: provided by TFX. Its `custom_config` contains `settings_json`, the sections `encoder`, `loss` and
            `training` of the experiment and its `seed`; `checkpoints` and `features`, folders that outlive the run, the
            first perhaps in an object store; and `code_version`, which is only part of the cache key. If the Tuner ran,
            `hyperparameters` replace the ranges in the settings.
    """
    config = fn_args.custom_config
    settings = from_parameter(config["settings_json"])
    store, validation_store = open_stores(fn_args)
    if fn_args.hyperparameters:
        settings = trial_settings(settings, fn_args.hyperparameters["values"], store)
    run_key = _run_key(settings, store, validation_store, config["code_version"])
    checkpoints = join(config["checkpoints"], run_key)
    learner, result = run_training(
        store,
        validation_store,
        **settings,
        checkpoint_folder=checkpoints,
        cache_folder=config["features"],
        run_key=run_key,
        log_folder=fn_args.model_run_dir,
    )
    folder = Path(fn_args.serving_model_dir)
    export_encoder(learner.encoder, folder, store.spec)
    learner.save(folder / LEARNER)
    if result.best_epoch == 0 and takes_text(result.settings["encoder"]):
        export_text_encoder(result.settings["encoder"], folder / TEXT)
    if result.settings["training"]["epochs"]:
        _export_untrained(learner, result, store, Path(fn_args.model_run_dir) / UNTRAINED)
    history = {
        "settings": result.settings,
        "recipe": [choice._asdict() for choice in result.recipe],
        "best_epoch": result.best_epoch,
        "stop_reason": result.stop_reason,
        "epochs": result.history,
    }
    (Path(fn_args.model_run_dir) / HISTORY).write_text(json.dumps(history, indent=1), encoding="utf-8")
    once_stored(lambda: _remove(checkpoints))  # the export is complete, so there is nothing to resume
    epochs = max(len(result.history) - 1, 0)
    logging.info("trained %d epochs, kept epoch %d (%s)", epochs, result.best_epoch, result.best_value)


def _remove(checkpoints: str) -> None:
    if is_remote(checkpoints):
        delete_tree(checkpoints)
    else:
        shutil.rmtree(checkpoints, ignore_errors=True)


def _export_untrained(learner: MetricLearner, result: FitResult, store: RecordStore, folder: Path) -> None:
    pretrained = bool(result.settings["encoder"].get("weights"))
    with untrained_encoders(learner.encoder, result.start_weights, pretrained=pretrained) as untrained:
        for name, encoder in untrained.items():
            export_encoder(encoder, folder / name, store.spec)


def open_stores(fn_args: FnArgs) -> tuple[RecordStore, RecordStore]:
    """Open the record stores of the training and validation classes from TFX's file patterns."""
    [train], [validation] = fn_args.train_files, fn_args.eval_files
    return RecordStore(Path(train).parent), RecordStore(Path(validation).parent)


def _run_key(settings: Mapping[str, Any], store: RecordStore, validation: RecordStore, code_version: str) -> str:
    """Digest of everything that the result of a training depends on: it resumes only from its own checkpoint."""
    parts = [settings, store.digest, validation.digest, code_version]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
