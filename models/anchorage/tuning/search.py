"""Run a hyperparameter search: the entry point of `anchorage tune` and of studies."""

from collections.abc import Sequence
from pathlib import Path

from anchorage.tuning.ranges import Range
from anchorage.tuning.record import Search
from anchorage.tuning.settings import TuningSettings
from anchorage.tuning.tuner import SearchTuner, Steps, Train


def run_search(
    train: Train,
    space: Sequence[Range],
    settings: TuningSettings,
    *,
    seed: int,
    folder: str | Path,
    log_folder: str | Path | None = None,
    steps: Steps | None = None,
) -> Search | None:
    """Search `space` for the values with the highest objective, and train the best ones again with new seeds.

    `search.json` in `folder` has the record. Trials in `folder` are not repeated: an interrupted search resumes.
    If `KERASTUNER_ORACLE_IP`, `KERASTUNER_ORACLE_PORT` and `KERASTUNER_TUNER_ID` are set, the process named `"chief"`
    proposes the values and the others run the trials; they share `folder`.

    Args:
        train: trains with a value for each active path of `space`, calls its second argument after each validation, and
            returns metrics, which include the objective. Values may include `training.epochs`, the epochs of this
            trial, and `seed`, of a repeat; both replace those of the settings that it trains with.
        space: the ranges.
        settings: how to search.
        seed: of the oracle; repeats have the seeds that follow it.
        folder: of the records of all trials of this search, and of no other with the same space.
        log_folder: of TensorBoard's HParams, one run per trial, in place of those of an earlier search; None for none.
        steps: what `Search.steps` has of the values of the winner; None for nothing.

    Returns:
        The record of the search; None in a process that only ran trials for a chief.

    Raises:
        UsageError: E_NAME_UNKNOWN for the oracle, E_TUNER_SPACE for an empty or invalid space, E_TUNER_FAILED if no
            trial succeeded.
        ResourceError: from a trial, unchanged.
    """
    tuner = SearchTuner(train, space, settings, seed=seed, folder=folder, log_folder=log_folder, steps=steps)
    tuner.search()
    return tuner.result
