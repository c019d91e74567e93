"""Beam jobs whose results are few and whose errors stay what they are."""

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
    """Work on every job where Beam wants it done, then finish once with all results.

    Results cannot come back from a distributed runner other than through files, and an exception comes
    back wrapped in Beam's own words. So `finish` writes what is needed, and an error about data or disk
    travels as a value, is written to the folder, and is raised here.

    Args:
        pipeline: a fresh pipeline; it is run.
        jobs: small picklable descriptions; what is large is read by `work`.
        work: from a job to a picklable result.
        finish: takes the list of results, in any order; not called when a job raised.
        folder: the artifact's folder, reachable from the workers.
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
    # A full disk first: it may be what damaged the data.
    first = min(faults, key=lambda fault: (-fault.exit_status, fault.code, fault.message))
    more = f" ({len(faults) - 1} more such faults)" if len(faults) > 1 else ""
    fault = {"exit_status": first.exit_status, "code": first.code, "message": first.message + more}
    with tf.io.gfile.GFile(path, "w") as file:
        file.write(json.dumps(fault))
