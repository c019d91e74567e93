"""The record of a search: its space, every trial, and the scores of the winner, as one JSON document."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from anchorage.errors import DataError
from anchorage.files import replace_file
from anchorage.tuning.ranges import Range

SEARCH = "search.json"

State = Literal["completed", "stopped", "failed"]
StopReason = Literal["trials", "minutes", "space", "converged", "max_cycles"]


@dataclass(frozen=True)
class Trial:
    """One training of the search.

    Args:
        number: from 0, in the order in which the trials started.
        values: value by the path of its setting, of the ranges that are active; under Hyperband also
            `training.epochs`.
        state: `"completed"`, `"stopped"` as unpromising before its last epoch, or `"failed"`.
        reason: why it was stopped or failed; empty if it was completed.
        score: objective, which higher is better; None if it failed. That of a stopped trial is the best of its curve,
            but no more than the median of the completed trials.
        curve: objective of each validation, in order.
        samples: training samples seen at each validation, as many as `curve`.
        metrics: further metrics by name.
        seconds: wall time.
        started: start in seconds since 1970.
        worker: name of the process that ran it, `KERASTUNER_TUNER_ID` if there are several.
    """

    number: int
    values: Mapping[str, Any]
    state: State
    reason: str = ""
    score: float | None = None
    curve: Sequence[float] = ()
    samples: Sequence[int] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    started: float = 0.0
    worker: str = ""

    @property
    def samples_seen(self) -> int:
        """Training samples that the trial has seen."""
        return self.samples[-1] if self.samples else 0


@dataclass(frozen=True)
class Repeat:
    """A training with the best values and another seed."""

    seed: int
    score: float


@dataclass(frozen=True)
class Interval:
    """Mean of the repeats and its t-interval; a single repeat has no ends."""

    mean: float
    low: float | None
    high: float | None
    confidence: float


@dataclass(frozen=True)
class Search:
    """A finished search.

    Args:
        oracle: name of the algorithm.
        objective: name of the metric, which higher is better.
        seed: seed of the oracle, and of every trial.
        max_trials: budget of trials.
        max_minutes: budget of wall time; 0 is no limit.
        space: the ranges.
        trials: all trials, by number.
        best: number of the trial with the highest score, the first on ties; None if there is none.
        stop_reason: `"trials"` or `"minutes"` for the budget that ended the search, `"space"` if nothing new was left
            to try, `"converged"` or `"max_cycles"` of the coordinate search.
        repeats: the winner's trainings with new seeds.
        interval: of the repeats; None without any.
        folds: folds of the training classes over which a score is the mean; 0 if it is that of the validation classes.
        steps: steps by the path of their setting that the winner changes with the size of its batches.
    """

    oracle: str
    objective: str
    seed: int
    max_trials: int
    max_minutes: float
    space: Sequence[Range]
    trials: Sequence[Trial]
    best: int | None
    stop_reason: StopReason
    repeats: Sequence[Repeat] = ()
    interval: Interval | None = None
    folds: int = 0
    steps: Mapping[str, int] = field(default_factory=dict)

    @property
    def best_trial(self) -> Trial | None:
        """The trial number `best`."""
        return next((trial for trial in self.trials if trial.number == self.best), None)


def write_search(search: Search, path: str | Path) -> None:
    """Write the record atomically as JSON."""
    replace_file(Path(path), json.dumps(asdict(search), indent=1, ensure_ascii=False).encode())


def read_search(path: str | Path) -> Search:
    """Read what `write_search` wrote.

    Raises:
        DataError: E_SEARCH_DAMAGED if the file is missing or is no such record.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        return Search(
            **{
                **found,
                "space": tuple(Range.from_dict(item) for item in found["space"]),
                "trials": tuple(read_trial(item) for item in found["trials"]),
                "repeats": tuple(Repeat(**item) for item in found["repeats"]),
                "interval": Interval(**found["interval"]) if found["interval"] else None,
            }
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            "E_SEARCH_DAMAGED", f"Expected the record of a search in {path}. Received: {error!r}"
        ) from error


def read_trial(values: Mapping[str, Any]) -> Trial:
    """A trial of its fields as plain values."""
    return Trial(**{**values, "curve": tuple(values["curve"]), "samples": tuple(values["samples"])})
