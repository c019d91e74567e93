"""The tuner function of the stock Tuner: creates a Keras Tuner that searches the ranges of an experiment."""

import json
from pathlib import Path

from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.components.tuner.component import TunerFnResult

from anchorage.procedures import run_training
from anchorage.tuning.hypermodel import create_tuner
from anchorage.tuning.ranges import apply_values
from anchorage_components.trainer import open_stores


def tuner_fn(fn_args: FnArgs) -> TunerFnResult:
    """Prepare the search; each trial is a short training, scored by its best MAP@R on the validation classes.

    Args:
        fn_args: provided by TFX. Its `custom_config` contains `settings_json` and `features` as for the Trainer, and
            `tuning_json` with `space` (range by the path of its key), `oracle`, `trials`, and `epochs` per trial.
    """
    config = fn_args.custom_config
    settings, tuning = json.loads(config["settings_json"]), json.loads(config["tuning_json"])
    store, validation_store = open_stores(fn_args)

    def train(values: dict) -> dict[str, float]:
        trial = apply_values(settings, {**values, "training.epochs": tuning["epochs"]})
        result = run_training(store, validation_store, **trial, cache_folder=config["features"]).result
        return {"map@r": max(row["val_map@r"] for row in result.history[1:])}  # row 0 is before training

    tuner = create_tuner(
        train,
        tuning["space"],
        oracle=tuning["oracle"],
        trials=tuning["trials"],
        seed=settings["seed"],
        directory=Path(fn_args.working_dir),
    )
    return TunerFnResult(tuner=tuner, fit_kwargs={})
