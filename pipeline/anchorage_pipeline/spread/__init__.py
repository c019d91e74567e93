"""`anchorage spread`: measure the spread of the metrics of an experiment over seeds and machines."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from anchorage.errors import AnchorageError, DataError, ResourceError, UsageError
from anchorage.files import remove_leftovers
from anchorage.progress import track
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.lock import hold_folder
from anchorage_pipeline.source import fingerprint_data
from anchorage_pipeline.spread.conditions import (
    code_digest,
    content_digest,
    data_version,
    describe_machine,
    settings_digest,
    spread_file,
)
from anchorage_pipeline.spread.record import MIN_SEEDS, Conditions, Machine, Row, Spread, read_spread, write_spread
from anchorage_pipeline.spread.table import format_row, format_table
from anchorage_pipeline.spread.worker import ERROR
from anchorage_pipeline.values import search_space

_MAX_SEED = 2**32 - 2  # NumPy accepts 32 bits
_FAULTS = {kind.exit_status: kind for kind in (UsageError, DataError, ResourceError)}


def measure_spread(experiment: Experiment, seeds: Sequence[int], machine: str | None = None) -> str:
    """Train and evaluate once per seed, and print each result.

    Each training runs in its own child process, so that no state of TensorFlow carries over. Results that this machine
    measured with the same settings, data and code are reused. The split depends on the experiment's own seed, so that
    all trainings are evaluated on the same queries.

    Args:
        experiment: an experiment without ranges.
        seeds: at least two distinct seeds.
        machine: name to record for this machine; None takes its host name.

    Returns:
        The table of all results in the file, by machine.

    Raises:
        UsageError: E_SEEDS, E_RANGES_NOT_SEARCHED, E_MACHINE, and the errors of an invalid experiment.
        DataError: E_SPREAD_DAMAGED, and the errors of invalid data.
        ResourceError: E_RUN_LOCKED if another command measures the same experiment, E_RUN_DIED, E_CODE_CHANGED.
    """
    _check(experiment, seeds)
    file, folder = spread_file(experiment), experiment.run_folder / "spread"
    with hold_folder(folder, experiment.name):
        remove_leftovers(file.parent)
        spread = read_spread(file)
        this_machine = describe_machine(machine)
        spread, conditions = _identify(experiment, spread)
        write_spread(file, spread)
        measured = {row.seed: row for row in spread.find(conditions, this_machine)}
        missing = [seed for seed in seeds if seed not in measured]
        if missing:
            print(f"training {len(missing)} of {len(seeds)} seeds; logs: {folder}", flush=True)
        for seed in track(seeds, "seeds"):
            if seed in measured:
                print(f"{format_row(measured[seed])}, measured {measured[seed].measured[:10]}", flush=True)
                continue
            job = {
                "experiment": experiment.model_dump(mode="json"),
                "seed": seed,
                "machine": this_machine.model_dump(),
                "conditions": conditions.model_dump(),
                "spread": str(file),
                "work": str(folder / "work"),
                "check": seed == missing[0],
            }
            print(format_row(_train(job, folder, file, conditions, this_machine)), flush=True)
        return format_table(read_spread(file).find(conditions))


def _check(experiment: Experiment, seeds: Sequence[int]) -> None:
    if repeated := sorted({seed for seed in seeds if list(seeds).count(seed) > 1}):
        raise UsageError("E_SEEDS", f"Expected distinct seeds. Received repeatedly: {', '.join(map(str, repeated))}")
    if len(seeds) < MIN_SEEDS:
        raise UsageError("E_SEEDS", f"Expected at least {MIN_SEEDS} seeds. Received: {len(seeds)}")
    if wrong := [seed for seed in seeds if not 0 <= seed <= _MAX_SEED]:
        raise UsageError("E_SEEDS", f"Expected seeds from 0 to {_MAX_SEED}. Received: {', '.join(map(str, wrong))}")
    if ranges := search_space(experiment):
        raise UsageError(
            "E_RANGES_NOT_SEARCHED",
            f"`anchorage spread` takes fixed values. Received ranges for {', '.join(item.path for item in ranges)}: "
            "replace them by the values that `anchorage tune` finds, or that the report of `anchorage run` lists",
        )


def _identify(experiment: Experiment, spread: Spread) -> tuple[Spread, Conditions]:
    """The conditions of the measurement, and the spread with the content digest of the data, computed if unknown."""
    version = data_version(experiment, fingerprint_data(experiment))
    if version not in spread.data_versions:
        versions = {**spread.data_versions, version: content_digest(experiment)}
        spread = spread.model_copy(update={"data_versions": versions})
    conditions = Conditions(
        settings=settings_digest(experiment), data=spread.data_versions[version], code=code_digest(experiment)
    )
    return spread, conditions


def _train(job: dict, folder: Path, file: Path, conditions: Conditions, machine: Machine) -> Row:
    """Measure one seed in a child process.

    Raises:
        AnchorageError: the error of the child process.
    """
    log, error = folder / f"seed-{job['seed']}.log", Path(job["work"]) / ERROR
    error.unlink(missing_ok=True)
    with tempfile.TemporaryFile() as document, log.open("wb") as output:
        document.write(json.dumps(job).encode())
        document.seek(0)
        child = subprocess.Popen(
            [sys.executable, "-m", "anchorage_pipeline.spread.worker"],
            stdin=document,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C reaches only the parent, which terminates its child itself
        )
        try:
            status = child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
    for row in read_spread(file).find(conditions, machine):
        if row.seed == job["seed"] and status == 0:
            return row
    raise _fault(job["seed"], status, error, log)


def _fault(seed: int, status: int, error: Path, log: Path) -> AnchorageError:
    if error.is_file():
        facts = json.loads(error.read_text(encoding="utf-8"))
        kind = _FAULTS.get(facts["status"], AnchorageError)
        return kind(facts["code"], facts["message"] if kind is UsageError else f"seed {seed}: {facts['message']}")
    cause = f"signal {-status}" if status < 0 else f"exit status {status}"
    return ResourceError("E_RUN_DIED", f"seed {seed}: the training ended with {cause}; see {log}")
