"""Beam jobs with small results, whose errors keep their type."""

import contextlib
import functools
import json
import posixpath
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam

from anchorage.disk import disk_fault
from anchorage.errors import AnchorageError, DataError, ResourceError
from anchorage.storage import is_remote
from anchorage_components.beam import files
from anchorage_components.beam.running import STALL_SECONDS, run_bounded

_FAULT = "fault.json"
_KINDS = {kind.exit_status: kind for kind in (DataError, ResourceError)}


def run_jobs(
    pipeline: beam.Pipeline,
    jobs: Sequence[Any],
    work: Callable[[Any], Any],
    finish: Callable[[list], None],
    folder: str,
    progress: Callable[[], Any] | None = None,
    stall_seconds: float = STALL_SECONDS,
) -> None:
    """Run `work` on every job in parallel, then `finish` once on all results.

    A distributed runner returns results only through files and wraps exceptions. So `finish` writes the results, and a
    data or disk error is passed on as a value, written to `folder`, and raised by this function.

    Args:
        pipeline: a new pipeline, which is run.
        jobs: small picklable job descriptions; `work` reads any large input itself.
        work: function from a job to a picklable result.
        finish: function of the list of results, in any order; not called if a job failed.
        folder: folder of the artifact, accessible to the workers.
        progress: see `run_bounded`; None looks at the files of the folder.
        stall_seconds: see `run_bounded`.

    Raises:
        DataError, ResourceError: of a job; `E_BEAM_WORKER`, `E_BEAM_STALLED`.
    """
    path = posixpath.join(folder, _FAULT)
    files.make_folder(folder)
    files.remove(path)  # of an earlier run in this folder
    add_jobs(pipeline, jobs, work, finish, folder)
    run_bounded(pipeline, progress or functools.partial(_files, folder), stall_seconds)
    if files.exists(path):
        fault = json.loads(files.read(path))
        raise _KINDS[fault["exit_status"]](fault["code"], fault["message"])


def add_jobs(
    pipeline: beam.Pipeline,
    jobs: Sequence[Any],
    work: Callable[[Any], Any],
    finish: Callable[[list], None],
    folder: str,
) -> None:
    """Add the transforms of `run_jobs` to a pipeline, which is not run."""
    _ = (
        pipeline
        | "Jobs" >> beam.Create(list(jobs))
        | "Spread" >> beam.Reshuffle()
        | "Work" >> beam.Map(functools.partial(_attempt, work, folder))
        | "Gather" >> beam.combiners.ToList()
        | "Finish" >> beam.Map(functools.partial(_conclude, finish, posixpath.join(folder, _FAULT)))
    )


def _files(folder: str) -> list:
    """Files of a folder, which change as the workers write; those of a local folder with their sizes."""
    if is_remote(folder):
        return files.list_folder(folder)
    found = []
    for path in Path(folder).rglob("*"):
        with contextlib.suppress(OSError):
            found.append((str(path), path.stat().st_size))
    return sorted(found)


def _attempt(work: Callable[[Any], Any], folder: str, job: Any) -> Any:
    try:
        return work(job)
    except (DataError, ResourceError) as error:
        return error
    except Exception as error:
        if (fault := disk_fault(error, Path(folder))) is not None:
            return fault
        raise


def _conclude(finish: Callable[[list], None], path: str, results: list) -> None:
    faults = [result for result in results if isinstance(result, AnchorageError)]
    if not faults:
        finish(results)
        return
    # Report a full disk first, since it may have damaged the data.
    first = min(faults, key=lambda fault: (-fault.exit_status, fault.code, fault.message))
    more = f" ({len(faults) - 1} more errors)" if len(faults) > 1 else ""
    fault = {"exit_status": first.exit_status, "code": first.code, "message": first.message + more}
    files.write(path, json.dumps(fault).encode())
