"""The Tuner: the stock component, with the record of the search beside its results."""

import hashlib
import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tfx.components
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.components.tuner import executor
from tfx.components.tuner.component import TunerFnResult
from tfx.dsl.components.base.executor_spec import ExecutorClassSpec
from tfx.types import Artifact
from tfx.types.artifact_utils import get_single_uri

from anchorage.storage import is_remote
from anchorage.tuning.ranges import read_space
from anchorage.tuning.record import SEARCH, write_search
from anchorage.tuning.settings import TuningSettings
from anchorage.tuning.training import trial_training
from anchorage.tuning.trial_settings import changed_steps
from anchorage.tuning.tuner import SearchTuner
from anchorage_components.nodes import on_local_folders
from anchorage_components.parameters import from_parameter
from anchorage_components.trainer import open_stores

_LOGS = "tensorboard"


def tuner_fn(fn_args: FnArgs) -> TunerFnResult:
    """Prepare the search; each trial is a short training, scored by its best MAP@R on the validation classes.

    Args:
        fn_args: provided by TFX. Its `custom_config` contains `settings_json`, `checkpoints` and `features` as for the
            Trainer, and `tuning_json`, the fields of `TuningSettings`; `settings_json` has the order of the experiment
            file. An interrupted search resumes in a folder below `checkpoints`.
    """
    config = fn_args.custom_config
    settings, tuning = from_parameter(config["settings_json"]), TuningSettings(**from_parameter(config["tuning_json"]))
    store, validation_store = open_stores(fn_args)
    space = read_space(settings)  # in the order of the file, in which the ranges are searched
    order = [item.path for item in space]
    parts = [settings, order, tuning.identity, store.digest, validation_store.digest, config["code_version"]]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(config["checkpoints"]) / f"search-{key}"
    tuner = SearchTuner(
        trial_training(store, validation_store, settings, tuning, cache_folder=config["features"]),
        space,
        tuning,
        seed=settings["seed"],
        folder=folder,
        log_folder=folder / _LOGS,
        steps=lambda values: changed_steps(settings, values, store),
    )
    return TunerFnResult(tuner=tuner, fit_kwargs={})


@on_local_folders
class Executor(executor.Executor):
    """Runs the stock search and, if it was one of this project, keeps its record with the results."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Search, then write the best hyperparameters, `search.json` and the logs for TensorBoard."""
        place = self._get_tmp_dir()  # of the pipeline root, which may be in an object store
        with TemporaryDirectory() if is_remote(place) else nullcontext(place) as scratch:
            tuner = executor.search(input_dict, exec_properties, scratch)
        executor.write_best_hyperparameters(tuner, output_dict)
        if isinstance(tuner, SearchTuner) and tuner.result is not None:
            results = Path(get_single_uri(output_dict["tuner_results"]))
            write_search(tuner.result, results / SEARCH)
            shutil.copytree(tuner.folder / _LOGS, results / _LOGS, dirs_exist_ok=True)
            shutil.rmtree(tuner.folder)  # the results are complete, so there is nothing to resume


class Tuner(tfx.components.Tuner):
    """TFX's Tuner with this executor; `tuner_fn` is `"package.module.function"`, this project's or a user's own."""

    EXECUTOR_SPEC = ExecutorClassSpec(Executor)
