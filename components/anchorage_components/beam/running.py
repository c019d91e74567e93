"""Runs of Beam that end: a lost worker, or one that makes no progress, is an error instead of an endless wait."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from anchorage.errors import ResourceError
from anchorage_components.beam.options import is_in_process, shared_cores

STALL_SECONDS = 1800.0  # the longest time without progress

_INTERVAL = 0.5  # seconds between two looks at the progress
_CLOSED = "Channel closed prematurely"  # what Beam's own runner says if a worker is gone


def run_bounded(
    pipeline: beam.Pipeline,
    progress: Callable[[], Any] | None = None,
    stall_seconds: float = STALL_SECONDS,
) -> None:
    """Run a pipeline that is built; as `pipeline.run().wait_until_finish()`, which never ends if a worker is killed.

    A pipeline in this process is simply run. Otherwise Beam runs in a thread, and this function gives up when a worker
    process of this machine ends early, or when `progress` stays the same for too long.

    Args:
        pipeline: the pipeline.
        progress: function that returns a value that changes with the progress, such as the number of finished shards;
            None if the progress is unknown; `stall_seconds` then limits the whole run.
        stall_seconds: longest time without progress.

    Raises:
        ResourceError: `E_BEAM_WORKER` if a worker ended early, `E_BEAM_STALLED`. Worker processes of this machine are
            stopped then, and the job of a job service is cancelled.
    """
    options = pipeline.options
    if is_in_process(options):
        pipeline.run().wait_until_finish()
        return
    with _lost_workers() as lost, shared_cores(options):
        run = _Run(pipeline)
        try:
            _watch(run, lost, progress or (lambda: None), stall_seconds)
        except BaseException:
            run.give_up()
            raise
        run.finish()


@contextlib.contextmanager
def bounded(options: PipelineOptions, seconds: float) -> Iterator[beam.Pipeline]:
    """A pipeline to be built inside and run at the end, as by `run_bounded`, for at most some seconds."""
    pipeline = beam.Pipeline(options=options)
    yield pipeline
    run_bounded(pipeline, stall_seconds=seconds)


class _Run:
    """A run of a pipeline in a thread."""

    def __init__(self, pipeline: beam.Pipeline):
        self._pipeline = pipeline
        self._result: Any = None
        self._error: BaseException | None = None
        self._children = _children()
        self._thread = threading.Thread(target=self._work, name="beam", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._result = self._pipeline.run()
            self._result.wait_until_finish()
        except BaseException as error:  # raised by `finish`
            self._error = error

    def ended(self, seconds: float) -> bool:
        """Wait for the end, at most some seconds."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def finish(self) -> None:
        """Raise the error of the run, if there was one."""
        if self._error is not None and _CLOSED in str(self._error):
            raise _lost(_CLOSED) from self._error
        if self._error is not None:
            raise self._error

    def give_up(self) -> None:
        """Stop what the run has started, so that neither processes nor threads stay."""
        if self._result is not None:
            with contextlib.suppress(Exception):  # a job service that does not answer is the reason to give up
                self._result.cancel()
        for process in _children() - self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


def _watch(run: _Run, lost: list[str], progress: Callable[[], Any], stall_seconds: float) -> None:
    seen, since = progress(), time.monotonic()
    while not run.ended(_INTERVAL):
        if lost:
            raise _lost(lost[0])
        now = progress()
        if now != seen:
            seen, since = now, time.monotonic()
        elif time.monotonic() - since > stall_seconds:
            raise ResourceError(
                "E_BEAM_STALLED",
                f"Expected progress within {stall_seconds:.0f} s. Received: none; a worker may be lost. Look at the "
                "logs of the workers, and run the same command again; it resumes",
            )


def _lost(reason: str) -> ResourceError:
    return ResourceError(
        "E_BEAM_WORKER",
        f"Expected the workers of Beam to end with their work. Received: {reason}. A worker was killed, often for "
        "lack of memory: take fewer workers. Run the same command again; it resumes",
    )


@contextlib.contextmanager
def _lost_workers() -> Iterator[list[str]]:
    """A list that gets the message of each worker process that ended early, which Beam only raises in a thread."""
    lost: list[str] = []
    before = threading.excepthook

    def note(failure: threading.ExceptHookArgs) -> None:
        if isinstance(failure.exc_value, RuntimeError) and "Worker subprocess" in str(failure.exc_value):
            lost.append(str(failure.exc_value))
        else:
            before(failure)

    threading.excepthook = note
    try:
        yield lost
    finally:
        threading.excepthook = before


def _children(parent: int | None = None) -> set[int]:
    """Processes that this one has started, and those that these have started."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = status.read_text().rpartition(")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(status.parent.name))
    found: set[int] = set()
    waiting = [os.getpid() if parent is None else parent]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found.update(children)
        waiting.extend(children)
    return found
