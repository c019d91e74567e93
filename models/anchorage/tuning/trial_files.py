"""The records of the trials of a search on disk: one file per configuration, written once it has ended."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anchorage.files import replace_file
from anchorage.tuning.record import Trial, read_trial


class TrialFiles:
    """A folder of records, which the processes of a search may share.

    Files are replaced atomically, so that a killed search leaves only whole records. They are found by the values of
    the trial, which does not depend on the order in which several workers run them.

    Args:
        folder: the folder, which is created.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def find(self, values: Mapping[str, Any]) -> Trial | None:
        """The record of a trial with these values; None if none has ended."""
        path = self._path(values)
        return read_trial(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def write(self, trial: Trial) -> None:
        """Write the record of a trial that has ended, in place of an earlier one with the same values."""
        replace_file(self._path(trial.values), json.dumps(asdict(trial), ensure_ascii=False).encode())

    def all(self) -> list[Trial]:
        """All records."""
        paths = sorted(self.folder.glob("[!.]*.json"))
        return [read_trial(json.loads(path.read_text(encoding="utf-8"))) for path in paths]

    def _path(self, values: Mapping[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(dict(values), sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:16]}.json"


def busy_seconds(trials: list[Trial]) -> float:
    """Wall time in which at least one of the trials ran.

    Example:
        >>> trials = [Trial(0, {}, "completed", started=0.0, seconds=10.0)]
        >>> trials += [Trial(1, {}, "completed", started=5.0, seconds=10.0)]
        >>> trials += [Trial(2, {}, "completed", started=100.0, seconds=1.0)]
        >>> busy_seconds(trials)
        16.0
    """
    busy, until = 0.0, float("-inf")
    for trial in sorted(trials, key=lambda trial: trial.started):
        end = trial.started + trial.seconds
        busy += max(0.0, end - max(until, trial.started))
        until = max(until, end)
    return busy
