"""Search over hyperparameters with Keras Tuner, around any function that trains and judges."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras_tuner
from keras_tuner.src import config

from anchorage.errors import AnchorageError, ResourceError, UsageError
from anchorage.user_code import find_fault

ORACLES: dict[str, type[keras_tuner.Oracle]] = {
    "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
    "random": keras_tuner.oracles.RandomSearchOracle,
}

_log = logging.getLogger(__name__)

Train = Callable[[dict[str, Any]], Mapping[str, float]]


class SettingsTuner(keras_tuner.Tuner):
    """Asks an oracle for values, trains with them, tells the oracle how good they were.

    A trial whose training raises is marked failed and the search goes on; what asks the whole process to stop
    (a full disk, SIGTERM) ends the search.

    Args:
        train: called with a value for each path of the space; gives metrics, the oracle's objective among them.
        oracle: what to try next.
        **kwargs: of `keras_tuner.Tuner`, such as `directory`.
    """

    def __init__(self, train: Train, oracle: keras_tuner.Oracle, **kwargs: Any):
        super().__init__(oracle=oracle, **kwargs)
        self._train = train

    def run_trial(self, trial: Any, *fit_args: Any, **fit_kwargs: Any) -> dict[str, float]:
        try:
            return dict(self._train(dict(trial.hyperparameters.values)))
        except ResourceError as error:
            raise keras_tuner.errors.FatalError(str(error)) from error
        except (Exception, SystemExit) as error:
            _log.info("trial %s failed", trial.trial_id, exc_info=error)
            told = error if isinstance(error, AnchorageError) else find_fault(error)
            raise keras_tuner.errors.FailedTrialError(str(told or f"{type(error).__name__}: {error}")) from error

    def on_trial_end(self, trial: Any) -> None:
        if trial.message:  # Keras Tuner puts the whole traceback there, whose end is the reason
            trial.message = " ".join(trial.message.rpartition("FailedTrialError: ")[2].split())
            if self.oracle.verbose:
                print(f"failed: {trial.message}", flush=True)
        super().on_trial_end(trial)

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Run the trials.

        Raises:
            ResourceError: from a trial, as it came.
            UsageError: E_TUNER_FAILED if no trial succeeded.
        """
        config.DEBUG = False  # Keras Tuner prints the traceback of each failed trial otherwise
        try:
            super().search(*fit_args, **fit_kwargs)
        except keras_tuner.errors.FatalError as error:
            raise (error.__cause__ or error) from None
        trials = self.oracle.trials.values()
        if all(trial.status == "FAILED" for trial in trials):
            causes = sorted({str(trial.message) for trial in trials})
            raise UsageError(
                "E_TUNER_FAILED",
                f"Expected at least one trial to succeed. All {len(trials)} failed: {'; '.join(causes)}",
            )


def create_tuner(
    train: Train,
    space: Mapping[str, Mapping[str, Any]],
    *,
    oracle: str = "random",
    trials: int,
    seed: int,
    directory: str | Path,
    objective: str = "map@r",
) -> SettingsTuner:
    """A search of `space` for the values with the highest `objective`.

    `tuner.search()` runs it, `tuner.get_best_hyperparameters()[0].values` holds the winner. Trials already in
    `directory` are not run again, so a search that was cut off goes on.

    Args:
        train: called with a value for each path of `space`; gives metrics.
        space: by path of a setting, `{"low": ..., "high": ..., "log": ...}` (whole numbers if both ends are) or
            `{"choices": [...]}`.
        oracle: `"random"` or `"bayesian"`.
        trials: how many values to try at most.
        seed: of the oracle.
        directory: where the record of every trial stays.
        objective: metric to be high.

    Raises:
        UsageError: E_NAME_UNKNOWN for the oracle, E_TUNER_SPACE for a space that is empty or not understood.
    """
    if oracle not in ORACLES:
        raise UsageError("E_NAME_UNKNOWN", f"Unknown oracle {oracle!r}. Known: {sorted(ORACLES)}")
    if not space:
        raise UsageError("E_TUNER_SPACE", "Expected at least one range to search. Received: none.")
    chooser = ORACLES[oracle](
        objective=keras_tuner.Objective(objective, "max"),
        max_trials=trials,
        seed=seed + 1,  # Keras Tuner takes 0 for "any seed"
        hyperparameters=_hyperparameters(space),
        allow_new_entries=False,
        max_consecutive_failed_trials=trials + 1,  # the budget ends the search, not a row of failures
    )
    return SettingsTuner(train, chooser, directory=str(directory), project_name="search")


def _hyperparameters(space: Mapping[str, Mapping[str, Any]]) -> keras_tuner.HyperParameters:
    parameters = keras_tuner.HyperParameters()
    for path, values in space.items():
        if "choices" in values:
            parameters.Choice(path, list(values["choices"]))
        elif {"low", "high"} <= set(values):
            low, high = values["low"], values["high"]
            kind = parameters.Int if isinstance(low, int) and isinstance(high, int) else parameters.Float
            kind(path, low, high, sampling="log" if values.get("log") else "linear")
        else:
            raise UsageError(
                "E_TUNER_SPACE", f"`{path}` needs `low` and `high`, or `choices`. Received: {sorted(values)}"
            )
    return parameters
