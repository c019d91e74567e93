"""`anchorage spread`: how far the numbers of an experiment scatter from seed to seed, and from machine to machine."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from anchorage.errors import AnchorageError, DataError, ResourceError, UsageError
from anchorage.files import remove_leftovers
from anchorage_pipeline.config import Experiment, search_space
from anchorage_pipeline.graph import fingerprint_data
from anchorage_pipeline.lock import hold_folder
from anchorage_pipeline.spread.conditions import (
    code_digest,
    content_digest,
    data_version,
    describe_machine,
    settings_digest,
    spread_file,
)
from anchorage_pipeline.spread.record import FEWEST, Conditions, Machine, Row, Spread, read_spread, write_spread
from anchorage_pipeline.spread.table import format_row, format_table
from anchorage_pipeline.spread.worker import ERROR

_MOST = 2**32 - 2  # NumPy takes 32 bits
_FAULTS = {kind.exit_status: kind for kind in (UsageError, DataError, ResourceError)}


def measure_spread(experiment: Experiment, seeds: Sequence[int], machine: str | None = None) -> str:
    """Train and evaluate once a seed, and say each result as soon as it is there.

    Each training is a child process of its own, so that none finds what another left in TensorFlow or in memory. What
    was measured here with the same settings, data and code is not measured again. The split of the data stays the
    experiment's own, whatever the seed: all trainings answer the same queries.

    Args:
        experiment: without ranges.
        seeds: at least two, each once.
        machine: a name for this machine; None for its host's.

    Returns:
        The table over all machines whose results the file holds.

    Raises:
        UsageError: E_SEEDS, E_RANGES_NOT_SEARCHED, E_MACHINE, and what a wrong experiment is refused for.
        DataError: E_SPREAD_DAMAGED, and what the data is refused for.
        ResourceError: E_RUN_LOCKED if another command measures the same experiment, E_RUN_DIED, E_CODE_CHANGED.
    """
    _check(experiment, seeds)
    file, folder = spread_file(experiment), experiment.run_folder / "spread"
    with hold_folder(folder, experiment.name):
        remove_leftovers(file.parent)
        spread = read_spread(file)
        here = describe_machine(machine)
        spread, conditions = _identify(experiment, spread)
        write_spread(file, spread)
        measured = {row.seed: row for row in spread.find(conditions, here)}
        missing = [seed for seed in seeds if seed not in measured]
        if missing:
            print(f"training {len(missing)} of {len(seeds)} seeds, one after the other; logs: {folder}", flush=True)
        for seed in seeds:
            if seed in measured:
                print(f"{format_row(measured[seed])}, measured {measured[seed].measured[:10]}", flush=True)
                continue
            job = {
                "experiment": experiment.model_dump(mode="json"),
                "seed": seed,
                "machine": here.model_dump(),
                "conditions": conditions.model_dump(),
                "spread": str(file),
                "work": str(folder / "work"),
                "check": seed == missing[0],
            }
            print(format_row(_train(job, folder, file, conditions, here)), flush=True)
        return format_table(read_spread(file).find(conditions))


def _check(experiment: Experiment, seeds: Sequence[int]) -> None:
    if twice := sorted({seed for seed in seeds if list(seeds).count(seed) > 1}):
        raise UsageError("E_SEEDS", f"Expected each seed once. Received more than once: {', '.join(map(str, twice))}")
    if len(seeds) < FEWEST:
        raise UsageError("E_SEEDS", f"Expected at least {FEWEST} seeds: one has no spread. Received: {len(seeds)}")
    if wrong := [seed for seed in seeds if not 0 <= seed <= _MOST]:
        raise UsageError("E_SEEDS", f"Expected seeds from 0 to {_MOST}. Received: {', '.join(map(str, wrong))}")
    if ranges := search_space(experiment):
        raise UsageError(
            "E_RANGES_NOT_SEARCHED",
            f"`anchorage spread` takes fixed values. Received ranges for {', '.join(ranges)}: write the values that "
            "`anchorage run` found, which its report shows, into the file",
        )


def _identify(experiment: Experiment, spread: Spread) -> tuple[Spread, Conditions]:
    """What the seeds are measured under; the content of the data is read where it is not known yet."""
    version = data_version(experiment, fingerprint_data(experiment))
    if version not in spread.data_versions:
        known = {**spread.data_versions, version: content_digest(experiment)}
        spread = spread.model_copy(update={"data_versions": known})
    conditions = Conditions(
        settings=settings_digest(experiment), data=spread.data_versions[version], code=code_digest(experiment)
    )
    return spread, conditions


def _train(job: dict, folder: Path, file: Path, conditions: Conditions, here: Machine) -> Row:
    """Have a child process measure one seed.

    Raises:
        AnchorageError: what the child met.
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
            start_new_session=True,  # the keyboard's interrupt goes to the parent, which ends its child itself
        )
        try:
            status = child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
    for row in read_spread(file).find(conditions, here):
        if row.seed == job["seed"] and status == 0:
            return row
    raise _fault(job["seed"], status, error, log)


def _fault(seed: int, status: int, error: Path, log: Path) -> AnchorageError:
    if error.is_file():
        told = json.loads(error.read_text(encoding="utf-8"))
        kind = _FAULTS.get(told["status"], AnchorageError)
        return kind(told["code"], told["message"] if kind is UsageError else f"seed {seed}: {told['message']}")
    ended = f"signal {-status}" if status < 0 else f"exit status {status}"
    return ResourceError("E_RUN_DIED", f"seed {seed}: the training ended with {ended}; {log} has what it printed")
