"""Beam jobs with small results, whose errors keep their type."""

import functools
import json
import posixpath
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow as tf

from anchorage.disk import disk_fault
from anchorage.errors import AnchorageError, DataError, ResourceError

_FAULT = "fault.json"
_KINDS = {kind.exit_status: kind for kind in (DataError, ResourceError)}


def run_jobs(
    pipeline: beam.Pipeline,
    jobs: Sequence[Any],
    work: Callable[[Any], Any],
    finish: Callable[[list], None],
    folder: str,
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
    """
    path = posixpath.join(folder, _FAULT)
    tf.io.gfile.makedirs(folder)
    with pipeline as running:
        _ = (
            running
            | "Jobs" >> beam.Create(list(jobs))
            | "Spread" >> beam.Reshuffle()
            | "Work" >> beam.Map(functools.partial(_attempt, work, folder))
            | "Gather" >> beam.combiners.ToList()
            | "Finish" >> beam.Map(functools.partial(_conclude, finish, path))
        )
    if tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path) as file:
            fault = json.loads(file.read())
        raise _KINDS[fault["exit_status"]](fault["code"], fault["message"])


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
    with tf.io.gfile.GFile(path, "w") as file:
        file.write(json.dumps(fault))
