"""Progress of long work on a stream: bars on a terminal, elsewhere a line now and then, with the estimated rest."""

import sys
import threading
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_EVERY = 30.0  # seconds between two lines of a task


class Bars:
    """Bars at the bottom of a terminal; what is printed meanwhile appears above them."""

    def __init__(self) -> None:
        self._tasks: list[tuple[str, TaskID]] = []
        self._progress: Progress | None = None
        self._lock = threading.RLock()

    def start(self, title: str, total: int | None, done: int) -> None:
        with self._lock:
            if self._progress is None:
                self._progress = _create_bars()
                self._progress.start()
            task = self._progress.add_task(title, total=total, completed=done, note="")
            self._tasks.append((title, task))

    def advance(self, title: str, steps: int, note: str) -> None:
        with self._lock:
            if self._progress is not None and (task := self._find(title)) is not None:
                self._progress.advance(task, steps)
                if note:
                    self._progress.update(task, note=note)

    def finish(self, title: str) -> None:
        with self._lock:
            if self._progress is None or (task := self._find(title)) is None:
                return
            self._tasks.remove((title, task))
            self._progress.remove_task(task)
            if not self._tasks:
                self._progress.stop()
                self._progress = None

    def _find(self, title: str) -> "TaskID | None":
        return next((task for other, task in reversed(self._tasks) if other == title), None)


class Lines:
    """Lines such as "embedding: 1,200 of 6,000, 2 min left", at most one per task in half a minute.

    Args:
        clock: function that returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._tasks: list[_Count] = []
        self._lock = threading.Lock()

    def start(self, title: str, total: int | None, done: int) -> None:
        with self._lock:
            now = self._clock()
            self._tasks.append(_Count(title, total, done, now, now))

    def advance(self, title: str, steps: int, note: str) -> None:
        with self._lock:
            if (count := self._find(title)) is None:
                return
            count.done += steps
            count.note = note or count.note
            if self._clock() - count.printed >= _EVERY:
                count.printed = self._clock()
                of = f" of {count.total:,}" if count.total is not None else ""
                left = count.left(self._clock())
                print(f"{title}: {count.done:,}{of}{left}{f', {count.note}' if count.note else ''}", flush=True)

    def finish(self, title: str) -> None:
        with self._lock:
            if (count := self._find(title)) is None:
                return
            self._tasks.remove(count)
            if count.printed > count.started:
                print(f"{title}: {count.done:,} in {self._clock() - count.started:.0f} s", flush=True)

    def _find(self, title: str) -> "_Count | None":
        return next((count for count in reversed(self._tasks) if count.title == title), None)


class _Count:
    def __init__(self, title: str, total: int | None, done: int, started: float, printed: float):
        self.title, self.total, self.done, self.started, self.printed = title, total, done, started, printed
        self.first, self.note = done, ""

    def left(self, now: float) -> str:
        """The rest of the time, if all steps take as long as those so far."""
        if self.total is None or self.done <= self.first or self.done >= self.total:
            return ""
        seconds = (now - self.started) / (self.done - self.first) * (self.total - self.done)
        if seconds < 100:
            return f", {seconds:.0f} s left"
        return f", {seconds / 60:.0f} min left" if seconds < 6000 else f", {seconds / 3600:.1f} h left"


def create_display(stream: IO[str]) -> Bars | Lines:
    """The display for a stream to which standard output is redirected."""
    return Bars() if stream.isatty() else Lines()


def _create_bars() -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(file=sys.stdout, highlight=False, soft_wrap=True),
        transient=True,
    )
