"""Progress of long work: the work reports its steps, and a display shows them if one is set.

The command line sets a display of progress bars. Without one, reports cost nothing and show nothing.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")


class Display(Protocol):
    """Shows tasks by title; methods may be called from several threads."""

    def start(self, title: str, total: int | None, done: int) -> None:
        """Show a new task of `total` steps (None: unknown), of which `done` are done."""

    def advance(self, title: str, steps: int, note: str) -> None:
        """Count steps of the last task of this title; `note` replaces the text beside it, unless it is empty."""

    def finish(self, title: str) -> None:
        """Remove the last task of this title."""


# Not a context variable: Beam works in threads of its own.
_display: Display | None = None


@contextmanager
def shown_on(display: Display | None) -> Iterator[None]:
    """Show the progress of the work inside on a display; None shows nothing."""
    global _display
    before, _display = _display, display
    try:
        yield
    finally:
        _display = before


def is_shown() -> bool:
    """Whether there is a display."""
    return _display is not None


@contextmanager
def task(title: str, total: int | None = None, done: int = 0) -> Iterator[None]:
    """Show the work inside as one task.

    Args:
        title: what is done, such as "embedding"; `advance` finds the task by it.
        total: number of steps, such as images; None if it is not known.
        done: number of steps that are done already.
    """
    display = _display
    if display is None:
        yield
        return
    display.start(title, total, done)
    try:
        yield
    finally:
        display.finish(title)


def advance(title: str, steps: int = 1, note: str = "") -> None:
    """Report that steps of a task are done; no effect without a display or in another process than the task."""
    if _display is not None:
        _display.advance(title, steps, note)


def track(items: Collection[T], title: str) -> Iterator[T]:
    """Iterate over items as one task with a step for each."""
    with task(title, len(items)):
        for item in items:
            yield item
            advance(title)
