"""Works jobs off in child processes, a few side by side, each on one thread so that its cost can be compared."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from anchorage.errors import ResourceError
from anchorage_pipeline.comparison.jobs import Job
from anchorage_pipeline.comparison.worker import write_record

_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
_LOOK = 0.2  # seconds between two looks at the children


class _Running(NamedTuple):
    job: Job
    process: subprocess.Popen
    log: IO[bytes]


def run_all(
    jobs: Sequence[Job],
    side_by_side: int,
    logs: Path,
    begun: Callable[[Job], None],
    ended: Callable[[Job], None],
) -> None:
    """Run all jobs; one that fails leaves its error in its record and the others undisturbed.

    Args:
        jobs: what has no record yet, in the order to be run.
        side_by_side: most processes at a time.
        logs: folder of what failed runs printed.
        begun: called with each job as it starts.
        ended: called with each job when its record is there.
    """
    waiting = list(reversed(jobs))
    running: list[_Running] = []
    logs.mkdir(parents=True, exist_ok=True)
    try:
        while waiting or running:
            while waiting and len(running) < side_by_side:
                job = waiting.pop()
                running.append(_start(job, logs))
                begun(job)
            time.sleep(_LOOK)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                _finish(one)
                ended(one.job)
                _stop_if_sources_changed(one.job)
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.wait()
            one.log.close()


def _start(job: Job, logs: Path) -> _Running:
    job.record.unlink(missing_ok=True)  # of an earlier failure
    log = (logs / f"{job.key}.log").open("wb")
    with tempfile.TemporaryFile() as document:  # no pipe: a child that dies early breaks nothing
        document.write(json.dumps(job.document).encode())
        document.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", "anchorage_pipeline.comparison.worker"],
            stdin=document,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1")},
            start_new_session=True,  # the keyboard's interrupt goes to the parent, which ends its children itself
        )
    return _Running(job, process, log)


def _finish(one: _Running) -> None:
    one.log.close()
    if not one.job.record.is_file():
        status = one.process.returncode
        told = f"signal {-status}" if status < 0 else f"exit status {status}"
        write_record(one.job.document, {"error": f"E_RUN_DIED: the process ended with {told}", "again": True})
    if one.process.returncode == 0:
        Path(one.log.name).unlink(missing_ok=True)


def _stop_if_sources_changed(job: Job) -> None:
    error = (job.read() or {}).get("error", "")
    if error.startswith("E_CODE_CHANGED"):
        raise ResourceError("E_CODE_CHANGED", error.partition(": ")[2])
