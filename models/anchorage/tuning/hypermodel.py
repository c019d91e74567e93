"""Hyperparameter search with Keras Tuner for any function that trains and evaluates."""

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

_OBJECTIVE = "map@r"

_log = logging.getLogger(__name__)

Train = Callable[[dict[str, Any]], Mapping[str, float]]


class SettingsTuner(keras_tuner.Tuner):
    """Trains with the values that an oracle proposes, and reports the metrics to the oracle.

    A trial whose training raises is marked as failed, and the search continues. A full disk or SIGTERM ends the search.

    Args:
        train: function from a value for each path of the space to metrics, which include the oracle's objective.
        oracle: proposes the values of the next trial.
        **kwargs: arguments of `keras_tuner.Tuner`, such as `directory`.
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
            fault = error if isinstance(error, AnchorageError) else find_fault(error)
            raise keras_tuner.errors.FailedTrialError(str(fault or f"{type(error).__name__}: {error}")) from error

    def on_trial_end(self, trial: Any) -> None:
        if trial.message:  # a traceback, of which the last part is the reason
            trial.message = " ".join(trial.message.rpartition("FailedTrialError: ")[2].split())
            if self.oracle.verbose:
                print(f"failed: {trial.message}", flush=True)
        super().on_trial_end(trial)

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Run the trials.

        Raises:
            ResourceError: from a trial, unchanged.
            UsageError: E_TUNER_FAILED if no trial succeeded.
        """
        config.DEBUG = False  # otherwise Keras Tuner prints the traceback of each failed trial
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
) -> SettingsTuner:
    """Create a tuner that searches `space` for the values with the highest MAP@R on the validation classes.

    `tuner.search()` runs the search, `tuner.get_best_hyperparameters()[0].values` has the best values. Trials in
    `directory` are not repeated, so an interrupted search resumes.

    Args:
        train: function from a value for each path of `space` to metrics, `map@r` among them.
        space: by path of a setting, `{"low": ..., "high": ..., "log": ...}` (integers if both ends are) or
            `{"choices": [...]}`.
        oracle: `"random"` or `"bayesian"`.
        trials: largest number of trials.
        seed: seed of the oracle.
        directory: folder of the records of all trials.

    Raises:
        UsageError: E_NAME_UNKNOWN for the oracle, E_TUNER_SPACE for an empty or invalid space.
    """
    if oracle not in ORACLES:
        raise UsageError("E_NAME_UNKNOWN", f"Unknown oracle {oracle!r}. Known: {sorted(ORACLES)}")
    if not space:
        raise UsageError("E_TUNER_SPACE", "Expected at least one range to search. Received: none.")
    created = ORACLES[oracle](
        objective=keras_tuner.Objective(_OBJECTIVE, "max"),
        max_trials=trials,
        seed=seed + 1,  # Keras Tuner treats 0 as no seed
        hyperparameters=_hyperparameters(space),
        allow_new_entries=False,
        max_consecutive_failed_trials=trials + 1,  # successive failures do not end the search
    )
    return SettingsTuner(train, created, directory=str(directory), project_name="search")


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
