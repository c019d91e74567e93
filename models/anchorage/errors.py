"""The errors a user can meet: each has a stable code and the exit status of the command that met it."""

from collections.abc import Iterator


class AnchorageError(Exception):
    """A fault told in one line: what was expected, what came, what to do.

    Args:
        code: stable name of the fault, such as `"E_SPLIT_EMPTY"`.
        message: one or two sentences for the person at the terminal.
    """

    exit_status = 1

    def __init__(self, code: str, message: str):
        super().__init__(code, message)  # both arguments, so that the error survives pickling between processes
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class UsageError(AnchorageError):
    """A wrong command, experiment file or argument."""

    exit_status = 2


class DataError(AnchorageError):
    """Input data that cannot be used."""

    exit_status = 3


class ResourceError(AnchorageError):
    """Trouble with disk, memory, network, or an interruption; the same command can be run again."""

    exit_status = 4


class GateError(AnchorageError):
    """A gate said no: the model or index was not good enough to publish."""

    exit_status = 5


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error itself and everything that it was raised from or while handling, outermost first."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


__all__ = ["AnchorageError", "DataError", "GateError", "ResourceError", "UsageError"]
