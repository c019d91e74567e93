"""Progress of a comparison: one line per run and, on a terminal, a progress bar with the remaining time."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from anchorage_pipeline.comparison.jobs import Job


class Progress:
    """Prints the progress of a batch of runs.

    Args:
        phase: name of the batch, such as "tuning".
        total: number of runs.
        metric: metric to print for each run.
    """

    def __init__(self, phase: str, total: int, metric: str):
        self._console = Console(highlight=False, soft_wrap=True)
        self._phase, self._total, self._metric = phase, total, metric
        self._count = 0
        self._running: list[str] = []
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bars = Bars(TextColumn(phase), *columns, TextColumn("{task.description}"), console=self._console)
        self._task = self._bars.add_task("", total=total)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def start(self, job: Job) -> None:
        """Show a run as running."""
        self._running.append(job.title)
        self._show()

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
        self._console.print(f"{self._phase} {position} {job.title}: {result}", markup=False)
        self._bars.advance(self._task)
        self._show()

    def _show(self) -> None:
        self._bars.update(self._task, description="; ".join(self._running))
