"""Checkpoints of a training: each is whole or not there, and going on from it equals never having stopped."""

import json
import logging
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from anchorage.data.batches import Sampler, is_refreshed
from anchorage.disk import disk_trouble
from anchorage.errors import UsageError
from anchorage.files import TEMPORARY, flush_folder, hash_file, remove_leftovers, write_hashed

FORMAT = 2

_MODEL, _OPTIMIZER, _METRICS = "model.npz", "optimizer.npz", "metrics.npz"
_SAMPLER, _STATE = "sampler.npz", "state.json"


@dataclass
class Progress:
    """How far a training is.

    Args:
        step: training steps done, over all epochs.
        history: one row of logs for each epoch, from epoch 0, the network before the first step.
        best_step: step of the checkpoint with the best value of the monitored metric.
        best_value: that value.
        waited: epochs since then.
    """

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_step: int | None = None
    best_value: float | None = None
    waited: int = 0

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return max(len(self.history) - 1, 0)


class Checkpoints:
    """The checkpoints of one training, in one folder; kept are the newest, the best and that of epoch 0.

    A checkpoint is a folder `step-<n>` with the learner's variables (proxies, moving statistics and random states
    among them), the optimizer's, those of the running metrics, what a refreshed sampler knows of the classes, and
    `state.json` with the progress and the hash of each file. It is written aside and renamed, so a reader never meets
    half of one.

    Args:
        folder: where they are; made if absent.
        run_key: what tells this training from others, such as a hash of its settings; a checkpoint of another
            training is refused.
        sampler: of the training; None for one that is a pure function of seed and step.
    """

    def __init__(self, folder: str | Path, run_key: str = "", sampler: Sampler | None = None):
        self.folder = Path(folder)
        self.run_key = run_key
        self._sampler = sampler if sampler is not None and is_refreshed(sampler) else None
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, learner: keras.Model, progress: Progress) -> Path:
        """Write a checkpoint, then drop those no longer needed.

        Raises:
            ResourceError: E_DISK_FULL or E_NOT_WRITABLE; the checkpoints before stay.
        """
        remove_leftovers(self.folder)
        target = self._path(progress.step)
        aside = self.folder / f"{TEMPORARY}{target.name}-{secrets.token_hex(4)}"
        parts = {name: _numbered(variables) for name, variables in _parts(learner).items()}
        if self._sampler is not None:
            parts[_SAMPLER] = self._sampler.get_state()
        try:
            with disk_trouble(self.folder, sum(map(_size, parts.values()))):
                aside.mkdir()
                hashes = {name: _write(arrays, aside / name) for name, arrays in parts.items()}
                facts = {"format": FORMAT, "run_key": self.run_key, "files": hashes, "progress": asdict(progress)}
                write_hashed(json.dumps(facts, indent=1).encode(), aside / _STATE)
                flush_folder(aside)
                shutil.rmtree(target, ignore_errors=True)  # a damaged one of the same step
                aside.rename(target)
                flush_folder(self.folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self._prune({0, progress.step, progress.best_step})
        return target

    def resume(self, learner: keras.Model) -> Progress:
        """Bring the learner to the newest whole checkpoint; a fresh `Progress` if there is none.

        One whose best checkpoint, or that of epoch 0, is damaged or gone is of no use: the result needs all three.

        Raises:
            UsageError: E_CHECKPOINT_OTHER if the checkpoint is of another training.
        """
        for step in sorted(self._steps(), reverse=True):
            facts = self._read(step)
            if facts is None:
                continue
            progress = Progress(**facts["progress"])
            needed = {0, progress.best_step or 0} - {step}
            if any(self._read(other) is None for other in needed):
                continue
            for name, variables in _parts(learner).items():
                self._assign(self._path(step) / name, variables)
            if self._sampler is not None:
                with np.load(self._path(step) / _SAMPLER, allow_pickle=False) as arrays:
                    self._sampler.set_state({name: arrays[name] for name in arrays.files})
            return progress
        return Progress()

    def restore_best(self, learner: keras.Model, progress: Progress) -> None:
        """Give the learner the variables of the best checkpoint; its optimizer stays as it is."""
        if progress.best_step is not None:
            self._assign(self._path(progress.best_step) / _MODEL, learner.variables)

    def start_weights(self, learner: keras.Model) -> list[np.ndarray]:
        """What `learner.encoder.get_weights()` gave before the first step."""
        places = {id(variable): place for place, variable in enumerate(learner.variables)}
        with np.load(self._path(0) / _MODEL, allow_pickle=False) as arrays:
            return [arrays[f"{places[id(variable)]:05d}"] for variable in learner.encoder.weights]

    def newest(self) -> Path | None:
        """The newest whole checkpoint, if any."""
        whole = (step for step in sorted(self._steps(), reverse=True) if self._read(step) is not None)
        step = next(whole, None)
        return None if step is None else self._path(step)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _steps(self) -> list[int]:
        return [int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*")]

    def _read(self, step: int) -> dict | None:
        path = self._path(step)
        try:
            facts = json.loads((path / _STATE).read_text(encoding="utf-8"))
            damaged = facts["format"] != FORMAT or any(hash_file(path / n) != h for n, h in facts["files"].items())
        except (OSError, ValueError, KeyError, TypeError):
            damaged = True
        if damaged:
            logging.warning("Checkpoint %s is damaged and left aside.", path)
            return None
        if facts["run_key"] != self.run_key:
            raise UsageError(
                "E_CHECKPOINT_OTHER",
                f"{path} is of another training. Expected run key {self.run_key!r}. Received: {facts['run_key']!r}. "
                "Remove the folder, or choose another one.",
            )
        return facts

    def _assign(self, path: Path, variables: list) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            values = [arrays[name] for name in arrays.files]
        found, wanted = [v.shape for v in values], [tuple(v.shape) for v in variables]
        if found != wanted:
            raise UsageError(
                "E_CHECKPOINT_OTHER",
                f"{path} is of another model. Expected {len(wanted)} arrays with the shapes of this one. Received: "
                f"{len(found)} arrays, other shapes. Remove the checkpoint folder, or choose another one.",
            )
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def _prune(self, keep: Iterable[int | None]) -> None:
        for step in set(self._steps()) - set(keep):
            shutil.rmtree(self._path(step), ignore_errors=True)


def _parts(learner: keras.Model) -> dict[str, list]:
    return {
        _MODEL: learner.variables,
        _OPTIMIZER: learner.optimizer.variables,
        _METRICS: learner.metrics_variables,
    }


def _numbered(variables: list) -> dict[str, Any]:
    return {f"{number:05d}": variable for number, variable in enumerate(variables)}


def _write(arrays: Mapping[str, Any], path: Path) -> str:
    """Write variables or arrays as one `.npz` file, flushed to the disk; returns its SHA-256."""
    with path.open("xb") as file:
        np.savez(file, **{name: keras.ops.convert_to_numpy(array) for name, array in arrays.items()})
        file.flush()
        os.fsync(file.fileno())
    return hash_file(path)


def _size(arrays: Mapping[str, Any]) -> int:
    return sum(4 * math.prod(array.shape) for array in arrays.values())
