"""Exceptions for users: each has a stable code, and each class sets the exit status of the command."""

from collections.abc import Iterator


class AnchorageError(Exception):
    """Base class; the message says in one line what was expected, what was received and what to do.

    Args:
        code: stable name of the error, such as `"E_SPLIT_EMPTY"`.
        message: one or two sentences for the user.
    """

    exit_status = 1

    def __init__(self, code: str, message: str):
        super().__init__(code, message)  # both arguments, so that the error survives pickling between processes
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class UsageError(AnchorageError):
    """An invalid command, experiment file or argument."""

    exit_status = 2


class DataError(AnchorageError):
    """Input data that cannot be used."""

    exit_status = 3


class ResourceError(AnchorageError):
    """A failure of disk, memory or network, or an interruption; the same command can be run again."""

    exit_status = 4


class GateError(AnchorageError):
    """A quality gate failed: the model or index is not good enough to publish."""

    exit_status = 5


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its chain of causes and contexts, outermost first; a chain may lead back into itself."""
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


__all__ = ["AnchorageError", "DataError", "GateError", "ResourceError", "UsageError"]
