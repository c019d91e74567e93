"""What a person sees while a comparison runs: a line a run, and on a terminal a bar with the time left."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from anchorage_pipeline.comparison.jobs import Job


class Progress:
    """Tells of a batch of runs.

    Args:
        doing: what they are for, such as "choosing".
        total: how many.
        metric: shown for each.
    """

    def __init__(self, doing: str, total: int, metric: str):
        self._console = Console(highlight=False, soft_wrap=True)
        self._doing, self._total, self._metric = doing, total, metric
        self._count = 0
        self._running: list[str] = []
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bars = Bars(TextColumn(doing), *columns, TextColumn("{task.description}"), console=self._console)
        self._task = self._bars.add_task("", total=total)

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begun(self, job: Job) -> None:
        """A run started."""
        self._running.append(job.title)
        self._show()

    def ended(self, job: Job) -> None:
        """A run came to its end, good or bad."""
        self._running.remove(job.title)
        self._count += 1
        record = job.read() or {}
        if "error" in record:
            told = f"failed: {record['error']}"
        else:
            told = f"{self._metric} {100 * record['values'][self._metric]:5.1f} %  {record['cpu_seconds']:5.0f} s"
        place = f"[{self._count:>{len(str(self._total))}}/{self._total}]"
        self._console.print(f"{self._doing} {place} {job.title}: {told}", markup=False)
        self._bars.advance(self._task)
        self._show()

    def _show(self) -> None:
        self._bars.update(self._task, description="; ".join(self._running))
