"""Run jobs in parallel child processes, each on one thread so that their costs can be compared."""

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
_POLL_SECONDS = 0.2


class _Running(NamedTuple):
    job: Job
    process: subprocess.Popen
    log: IO[bytes]


def run_all(
    jobs: Sequence[Job],
    side_by_side: int,
    logs: Path,
    on_start: Callable[[Job], None],
    on_finish: Callable[[Job], None],
) -> None:
    """Run all jobs; a job that fails writes its error into its record and does not affect the others.

    Args:
        jobs: jobs to run, in order.
        side_by_side: number of parallel processes.
        logs: folder for the output of failed jobs.
        on_start: called with each job when it starts.
        on_finish: called with each job when its record is written.
    """
    waiting = list(reversed(jobs))
    running: list[_Running] = []
    logs.mkdir(parents=True, exist_ok=True)
    try:
        while waiting or running:
            while waiting and len(running) < side_by_side:
                job = waiting.pop()
                running.append(_start(job, logs))
                on_start(job)
            time.sleep(_POLL_SECONDS)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                _finish(one)
                on_finish(one.job)
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
    with tempfile.TemporaryFile() as document:  # not a pipe, which would break if the child dies early
        document.write(json.dumps(job.document).encode())
        document.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", "anchorage_pipeline.comparison.worker"],
            stdin=document,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **dict.fromkeys(_ONE_THREAD, "1")},
            start_new_session=True,  # Ctrl-C reaches only the parent, which terminates its children itself
        )
    return _Running(job, process, log)


def _finish(one: _Running) -> None:
    one.log.close()
    if not one.job.record.is_file():
        status = one.process.returncode
        cause = f"signal {-status}" if status < 0 else f"exit status {status}"
        write_record(one.job.document, {"error": f"E_RUN_DIED: the process ended with {cause}", "again": True})
    if one.process.returncode == 0:
        Path(one.log.name).unlink(missing_ok=True)


def _stop_if_sources_changed(job: Job) -> None:
    error = (job.read() or {}).get("error", "")
    if error.startswith("E_CODE_CHANGED"):
        raise ResourceError("E_CODE_CHANGED", error.partition(": ")[2])
