"""Progress of a comparison: one line per run, and a task with a step per run."""

from anchorage.progress import advance
from anchorage_pipeline.comparison.jobs import Job


class Progress:
    """Prints the progress of a batch of runs.

    Args:
        phase: name of the batch, such as "tuning", and title of the task.
        total: number of runs.
        metric: metric to print for each run.
    """

    def __init__(self, phase: str, total: int, metric: str):
        self._phase, self._total, self._metric = phase, total, metric
        self._count = 0
        self._running: list[str] = []

    def start(self, job: Job) -> None:
        """Show a run as running."""
        self._running.append(job.title)
        advance(self._phase, 0, "; ".join(self._running))

    def finish(self, job: Job) -> None:
        """Print the result or the error of a run."""
        self._running.remove(job.title)
        self._count += 1
        record = job.read() or {}
        if "error" in record:
            result = f"failed: {record['error']}"
        else:
            result = f"{self._metric} {100 * record['values'][self._metric]:5.1f} %  {record['cpu_seconds']:5.0f} s"
        position = f"[{self._count:>{len(str(self._total))}}/{self._total}]"
        print(f"{self._phase} {position} {job.title}: {result}", flush=True)
        advance(self._phase, 1, "; ".join(self._running))
