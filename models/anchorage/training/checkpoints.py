"""Atomic checkpoints of a training; a resumed training gives the same result as an uninterrupted one."""

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
_SAMPLER = "sampler.npz"
STATE = "state.json"  # written last


@dataclass
class Progress:
    """Progress of a training.

    Args:
        step: number of completed training steps, over all epochs.
        history: one row of logs per epoch, from epoch 0, the network before the first step.
        best_step: step of the checkpoint with the best value of the monitored metric.
        best_value: best value of the monitored metric.
        waited: epochs since the best value.
    """

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best_step: int | None = None
    best_value: float | None = None
    waited: int = 0

    @property
    def epoch(self) -> int:
        """Number of completed epochs."""
        return max(len(self.history) - 1, 0)


class Checkpoints:
    """Saves and restores the checkpoints of a training; keeps the newest, the best and that of epoch 0.

    A checkpoint is a folder `step-<n>` with the variables of the learner (including proxies, moving statistics and
    random states), of the optimizer and of the running metrics, the state of a refreshed sampler, and `state.json` with
    the progress and the hash of each file. It is written to a temporary folder and renamed, so it is never incomplete.

    Args:
        folder: folder of the checkpoints; created if missing.
        run_key: identifies the training, such as a hash of its settings; checkpoints with another key are rejected.
        sampler: sampler of the training; None if it is a pure function of seed and step.
    """

    def __init__(self, folder: str | Path, run_key: str = "", sampler: Sampler | None = None):
        self.folder = Path(folder)
        self.run_key = run_key
        self._sampler = sampler if sampler is not None and is_refreshed(sampler) else None
        self.folder.mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return str(self.folder)

    def save(self, learner: keras.Model, progress: Progress) -> Path:
        """Write a checkpoint, then delete those no longer needed.

        Raises:
            ResourceError: E_DISK_FULL or E_NOT_WRITABLE; earlier checkpoints are kept.
        """
        remove_leftovers(self.folder)
        target = self._path(progress.step)
        temporary = self.folder / f"{TEMPORARY}{target.name}-{secrets.token_hex(4)}"
        parts = {name: _numbered(variables) for name, variables in _parts(learner).items()}
        if self._sampler is not None:
            parts[_SAMPLER] = self._sampler.get_state()
        try:
            with disk_trouble(self.folder, sum(map(_size, parts.values()))):
                temporary.mkdir()
                hashes = {name: _write(arrays, temporary / name) for name, arrays in parts.items()}
                facts = {"format": FORMAT, "run_key": self.run_key, "files": hashes, "progress": asdict(progress)}
                write_hashed(json.dumps(facts, indent=1).encode(), temporary / STATE)
                flush_folder(temporary)
                shutil.rmtree(target, ignore_errors=True)  # a damaged checkpoint of the same step
                temporary.rename(target)
                flush_folder(self.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._prune({0, progress.step, progress.best_step})
        return target

    def resume(self, learner: keras.Model) -> Progress:
        """Restore the learner from the newest intact checkpoint; return a new `Progress` if there is none.

        A checkpoint is skipped if the best one or that of epoch 0 is damaged or missing: the result needs all three.

        Raises:
            UsageError: E_CHECKPOINT_OTHER if the checkpoint belongs to another training.
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
        """Restore the variables of the best checkpoint, without the optimizer."""
        if progress.best_step is not None:
            self._assign(self._path(progress.best_step) / _MODEL, learner.variables)

    def start_weights(self, learner: keras.Model) -> list[np.ndarray]:
        """Return the result of `learner.encoder.get_weights()` before the first step."""
        numbers = {id(variable): number for number, variable in enumerate(learner.variables)}
        with np.load(self._path(0) / _MODEL, allow_pickle=False) as arrays:
            return [arrays[f"{numbers[id(variable)]:05d}"] for variable in learner.encoder.weights]

    def newest(self) -> Path | None:
        """Return the newest intact checkpoint, or None."""
        intact = (step for step in sorted(self._steps(), reverse=True) if self._read(step) is not None)
        step = next(intact, None)
        return None if step is None else self._path(step)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _steps(self) -> list[int]:
        return [int(path.name.removeprefix("step-")) for path in self.folder.glob("step-*")]

    def _read(self, step: int) -> dict | None:
        path = self._path(step)
        try:
            facts = json.loads((path / STATE).read_text(encoding="utf-8"))
            damaged = facts["format"] != FORMAT or any(hash_file(path / n) != h for n, h in facts["files"].items())
        except (OSError, ValueError, KeyError, TypeError):
            damaged = True
        if damaged:
            logging.warning("Checkpoint %s is damaged and is ignored.", path)
            return None
        if facts["run_key"] != self.run_key:
            raise UsageError(
                "E_CHECKPOINT_OTHER",
                f"{path} belongs to another training. Expected run key {self.run_key!r}. Received: "
                f"{facts['run_key']!r}. Remove the folder or choose another one.",
            )
        return facts

    def _assign(self, path: Path, variables: list) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            values = [arrays[name] for name in arrays.files]
        if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
            raise UsageError(
                "E_CHECKPOINT_OTHER",
                f"{path} belongs to another model. Expected {len(variables)} arrays with the shapes of this model. "
                f"Received: {len(values)} arrays, other shapes. Remove the checkpoint folder or choose another one.",
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
    """Write variables or arrays to an `.npz` file, flush it to the disk, and return its SHA-256."""
    with path.open("xb") as file:
        np.savez(file, **{name: keras.ops.convert_to_numpy(array) for name, array in arrays.items()})
        file.flush()
        os.fsync(file.fileno())
    return hash_file(path)


def _size(arrays: Mapping[str, Any]) -> int:
    """Bytes of the arrays: variables of Keras name their type, which NumPy need not know, such as bfloat16."""
    return sum(math.prod(array.shape) * _itemsize(array.dtype) for array in arrays.values())


def _itemsize(dtype: Any) -> int:
    name = keras.backend.standardize_dtype(dtype)
    return 2 if name == "bfloat16" else np.dtype(name).itemsize
