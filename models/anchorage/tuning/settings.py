"""The settings of a hyperparameter search, with every default."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

OBJECTIVE = "map@r"


@dataclass(frozen=True)
class TuningSettings:
    """Settings of a search.

    Args:
        oracle: what proposes the values of a trial, a key of `anchorage.tuning.oracles.ORACLES`.
        params: further arguments of the oracle, such as `points` of `"coordinate"` and `factor` of `"hyperband"`.
        trials: largest number of trials.
        minutes: wall time after which no further trial starts, not counting interruptions; 0 is no limit.
        epochs: epochs of a trial; `"hyperband"` gives this many to its best trials only.
        folds: 0 validates on the validation classes; from 2 on, each trial trains once per fold of the training
            classes, and its score is the mean over the folds.
        stop_early: whether a trial below the median of the others at the same time stops; never by `"hyperband"`, which
            has its own rule.
        repeats: trainings with the best values and new seeds.
    """

    oracle: str = "random"
    params: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 8
    minutes: float = 0.0
    epochs: int = 5
    folds: int = 0
    stop_early: bool = True
    repeats: int = 3

    @property
    def identity(self) -> dict[str, Any]:
        """Settings that identify the search; one with another budget or other repeats resumes it."""
        found = asdict(self)
        return {name: found[name] for name in ("oracle", "params", "epochs", "folds", "stop_early")}
