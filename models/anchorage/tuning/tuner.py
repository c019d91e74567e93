"""A tuner for any function that trains and evaluates."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, Protocol

import keras_tuner
from keras_tuner.src import config

from anchorage.errors import AnchorageError, DataError, ResourceError, UsageError
from anchorage.tuning.hparams import clear_trials, log_trial
from anchorage.tuning.oracles import EPOCHS, create_oracle, stops_early
from anchorage.tuning.ranges import Range, active_ranges
from anchorage.tuning.record import SEARCH, Interval, Repeat, Search, StopReason, Trial, write_search
from anchorage.tuning.settings import OBJECTIVE, TuningSettings
from anchorage.tuning.stopping import TrialStopped, reason_to_stop_trial
from anchorage.tuning.trial_files import TrialFiles, busy_seconds
from anchorage.user_code import find_fault

CONFIDENCE = 0.95  # of the interval of the repeats
SAMPLES = "samples_seen"  # metric of a training that reports no validations
_WAIT = 0.2  # seconds until a worker asks again for a trial when there is none to run yet
_SEEDS = 2**32 - 1  # NumPy accepts smaller ones

_log = logging.getLogger(__name__)


class Report(Protocol):
    """Callback for a training after each validation; raises `TrialStopped`, which the training must not catch."""

    def __call__(self, samples: int, objective: float) -> None:
        """Report the training samples seen so far, and the objective, which higher is better."""


Steps = Callable[[Mapping[str, Any]], Mapping[str, int]]
Train = Callable[[dict[str, Any], Report], Mapping[str, float]]


class SearchTuner(keras_tuner.Tuner):
    """Trains with the values that an oracle proposes, and then with the best ones and new seeds.

    A trial whose training raises is marked as failed, and the search continues. A full disk or SIGTERM ends it. Every
    trial that has ended has its record in `folder`, and is not repeated: after an interruption the oracle proposes the
    same values again and gets the recorded scores at once.

    Args:
        train: from a value for each active path of the space, and a `Report`, to metrics, which include the objective.
            Values may include `training.epochs` and `seed`, which replace those of the training's own settings.
        space: the ranges.
        settings: how to search.
        seed: of the oracle; the repeats have the seeds that follow it.
        folder: of this search alone.
        log_folder: of TensorBoard's HParams; None for none.
        steps: what `Search.steps` has of the values of the winner; None for nothing.

    Attributes:
        result: the record of the search once it has ended; None in a process that runs trials for a chief.

    Raises:
        UsageError: E_NAME_UNKNOWN, E_PARAMETER_UNKNOWN or E_PARAMETER_VALUE for the oracle, E_TUNER_SPACE.
    """

    def __init__(
        self,
        train: Train,
        space: Sequence[Range],
        settings: TuningSettings,
        *,
        seed: int,
        folder: str | Path,
        log_folder: str | Path | None = None,
        steps: Steps | None = None,
    ):
        oracle = create_oracle(space, settings, seed)
        self.space, self.settings, self.seed, self.folder = space, settings, seed, Path(folder)
        self.result: Search | None = None
        self._train, self._log_folder, self._steps = train, log_folder, steps
        self._trials, self._repeats = TrialFiles(self.folder / "trials"), TrialFiles(self.folder / "repeats")
        self._stops_early = settings.stop_early and stops_early(oracle)
        self._stop_reason: StopReason = "trials"
        self._waits, self._started, self._busy_before = False, 0.0, 0.0
        # Keras Tuner's own files are not needed again, and each process has its own.
        name = os.environ.get("KERASTUNER_TUNER_ID", "tuner0")
        super().__init__(oracle=oracle, directory=str(self.folder / "keras_tuner"), project_name=name, overwrite=True)
        self._oracle = oracle  # where trials run for a chief, `self.oracle` asks the chief
        self._populate_space = oracle.populate_space
        oracle.populate_space = self._propose

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Run the trials and the repeats, and write `search.json`.

        Raises:
            ResourceError: from a trial, unchanged.
            UsageError: E_TUNER_FAILED if no trial succeeded.
            DataError: E_SEARCH_DAMAGED if the workers do not write to the folder of the chief.
        """
        config.DEBUG = False  # otherwise Keras Tuner prints the traceback of each failed trial
        if self._log_folder is not None and not self._is_worker():
            clear_trials(self._log_folder)  # recorded trials are logged again
        self._started, self._busy_before = time.time(), busy_seconds(self._trials.all())
        try:
            super().search(*fit_args, **fit_kwargs)
        except keras_tuner.errors.FatalError as error:
            raise (error.__cause__ or error) from None
        if self._is_worker():
            return
        trials = [self._recorded(self._oracle.trials[name]) for name in self._oracle.start_order]
        scored = [trial for trial in trials if trial.score is not None]
        if not scored:
            causes = sorted({trial.reason for trial in trials})
            raise UsageError(
                "E_TUNER_FAILED",
                f"Expected at least one trial to succeed. All {len(trials)} failed: {'; '.join(causes)}",
            )
        best = max(scored, key=lambda trial: trial.score or 0)
        repeats = self._repeat(best)
        self.result = Search(
            oracle=self.settings.oracle,
            objective=OBJECTIVE,
            seed=self.seed,
            max_trials=self.settings.trials,
            max_minutes=self.settings.minutes,
            space=tuple(self.space),
            trials=tuple(trials),
            best=best.number,
            stop_reason=self._stop_reason,
            repeats=tuple(repeats),
            interval=_interval([repeat.score for repeat in repeats]),
            folds=self.settings.folds,
            steps=self._steps(best.values) if self._steps else {},
        )
        write_search(self.result, self.folder / SEARCH)

    def run_trial(self, trial: Any, *fit_args: Any, **fit_kwargs: Any) -> dict[str, float]:
        """Train, unless there is a record; see `keras_tuner.Tuner`."""
        number, values = int(trial.trial_id), self._values(trial)
        record = self._trials.find(values)
        record = replace(record, number=number) if record else self._run(number, values, self._stops_early)
        self._trials.write(record)
        if self._log_folder is not None:
            log_trial(self._log_folder, record)
        if record.score is None:
            raise keras_tuner.errors.FailedTrialError(record.reason)
        return {**record.metrics, OBJECTIVE: record.score}

    def pre_create_trial(self) -> None:
        """Wait a little if there was no trial to run."""
        if self._waits:
            time.sleep(_WAIT)
        self._waits = True

    def on_trial_begin(self, trial: Any) -> None:
        """Reset the wait for a trial."""
        self._waits = False

    def on_trial_end(self, trial: Any) -> None:
        """Print why a trial failed; see `keras_tuner.Tuner`."""
        self._waits = False
        if trial.message:  # a traceback, of which the last part is the reason
            trial.message = " ".join(trial.message.rpartition("FailedTrialError: ")[2].split())
            print(f"failed: {trial.message}", flush=True)
        super().on_trial_end(trial)

    def _propose(self, trial_id: str) -> dict[str, Any]:
        """The oracle's proposal, unless the time is up; of what is recorded there is more time than was used."""
        response = self._populate_space(trial_id)
        if response["status"] == "STOPPED":
            self._stop_reason = getattr(self._oracle, "stop_reason", "space")
        elif response["status"] == "RUNNING" and self.settings.minutes:
            used = self._busy_before + time.time() - self._started
            if used > 60 * self.settings.minutes and not self._trials.find(self._plain(response["values"])):
                self._stop_reason = "minutes"
                return {"status": "STOPPED", "values": None}
        return response

    def _run(self, number: int, values: dict[str, Any], stops_early: bool) -> Trial:
        """Train once; what the training raises becomes the reason of a failure."""
        started, curve, seen = time.time(), list[float](), list[int]()

        def report(samples: int, objective: float) -> None:
            curve.append(float(objective))
            seen.append(int(samples))
            if stops_early and (reason := reason_to_stop_trial(curve, [other.curve for other in self._completed()])):
                raise TrialStopped(reason)

        score, metrics, state, reason = None, dict[str, float](), "completed", ""
        try:
            metrics = {name: float(value) for name, value in self._train(dict(values), report).items()}
            score = metrics.pop(OBJECTIVE)
        except TrialStopped as stopped:
            # It cannot win: the folds that it has seen may be easier than the others.
            bound = median(other.score for other in self._completed() if other.score is not None)
            state, reason, score = "stopped", str(stopped), min(max(curve), bound)
        except ResourceError as error:
            raise keras_tuner.errors.FatalError(str(error)) from error
        except (Exception, SystemExit) as error:
            _log.info("trial %s failed", number, exc_info=error)
            fault = error if isinstance(error, AnchorageError) else find_fault(error)
            state, reason = "failed", " ".join(str(fault or f"{type(error).__name__}: {error}").split())
        samples_seen = int(metrics.pop(SAMPLES, 0))
        if score is not None and not curve:
            curve, seen = [score], [samples_seen]
        if score is not None and score != score:
            state, reason, score = "failed", f"its {OBJECTIVE} is not a number", None
        return Trial(
            number=number,
            values=values,
            state=state,  # type: ignore[arg-type]
            reason=reason,
            score=score,
            curve=tuple(curve),
            samples=tuple(seen),
            metrics=metrics,
            seconds=time.time() - started,
            started=started,
            worker=self.tuner_id,
        )

    def _completed(self) -> list[Trial]:
        return [trial for trial in self._trials.all() if trial.state == "completed"]

    def _repeat(self, best: Trial) -> list[Repeat]:
        """Train with the best values and new seeds; a training that fails is left out."""
        repeats = []
        for place in range(1, self.settings.repeats + 1):
            seed = (self.seed + place) % _SEEDS
            values = {**best.values, "seed": seed}
            record = self._repeats.find(values) or self._run(best.number, values, stops_early=False)
            self._repeats.write(record)
            if record.score is None:
                print(f"repeat with seed {seed} failed: {record.reason}", flush=True)
            else:
                repeats.append(Repeat(seed, record.score))
        return repeats

    def _recorded(self, trial: Any) -> Trial:
        record = self._trials.find(self._values(trial))
        if record is None:
            raise DataError(
                "E_SEARCH_DAMAGED",
                f"Expected the record of trial {trial.trial_id} in {self._trials.folder}. There is none: chief and "
                "workers need the same folder.",
            )
        return record

    def _values(self, trial: Any) -> dict[str, Any]:
        return self._plain(trial.hyperparameters.values)

    def _plain(self, proposed: Mapping[str, Any]) -> dict[str, Any]:
        """The values as the ranges have them, and the epochs that Hyperband grants."""
        values: dict[str, Any] = {}
        for item in self.space:
            # What a chief sends has the defaults of inactive ranges, too.
            if item.path in proposed and active_ranges([item], values):
                value = proposed[item.path]
                # Keras Tuner has 1 and 0 for true and false.
                values[item.path] = next((choice for choice in item.choices or () if choice == value), value)
        return values | ({"training.epochs": int(proposed[EPOCHS])} if EPOCHS in proposed else {})


def _interval(scores: Sequence[float]) -> Interval | None:
    """The mean of the scores with its t-interval, cut off at 0 and 1, between which every score is."""
    if not scores:
        return None
    mean = fmean(scores)
    if len(scores) == 1:
        return Interval(mean, None, None, CONFIDENCE)
    from scipy import stats

    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(scores) - 1)) * stdev(scores) / len(scores) ** 0.5
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half), CONFIDENCE)
