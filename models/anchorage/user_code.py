"""Errors in a user's own modules ("package.module:ClassName"), reported with the user's file and line."""

import re
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anchorage.errors import AnchorageError, UsageError

_PROJECT = Path(__file__).resolve().parents[2]
_NOT_USER_CODE = [
    *(_PROJECT / package for package in ("models", "components", "pipeline", "kubeflow")),
    *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")),
]
# The text that Keras adds around the message of an error in a layer's `call`.
_KERAS = re.compile(r"Exception encountered when calling .*?\x1b\[1m(?:.*Error encountered:)?(.*?)\x1b\[0m", re.DOTALL)


@contextmanager
def user_code(name: str) -> Iterator[None]:
    """Convert any exception of a user's own code, `sys.exit` included, to a `UsageError`.

    Args:
        name: `"package.module:ClassName"`; any other name is a built-in, whose errors pass unchanged.

    Raises:
        UsageError: E_USER_CODE, with the original message, the file and the line.
    """
    try:
        yield
    except AnchorageError:
        raise
    except (Exception, SystemExit) as error:
        if ":" not in name:
            raise
        raise _fault(error, _place(error), name) from error


def find_fault(error: BaseException) -> UsageError | None:
    """Return a `UsageError` for an exception raised in a user's own module; None if it was raised elsewhere.

    A module is the user's own if it is neither part of this project nor installed.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Exception | SystemExit) and (place := _place(cause)):
            return _fault(cause, place)
        cause = cause.__cause__
    return None


def _fault(error: BaseException, place: str, name: str = "") -> UsageError:
    kind = type(error).__name__
    if isinstance(error, SystemExit):
        message = f"it calls sys.exit({error.code!r:.40})"
    elif isinstance(error, SyntaxError):
        message = error.msg
    else:
        wrapped = _KERAS.search(str(error.args[0]) if error.args else "")
        message = " ".join((wrapped[1] if wrapped else str(error)).split()) or "no message"
    where = [part for part in (place, repr(name) if name else "") if part]
    return UsageError("E_USER_CODE", f"{message} ({kind} in {', '.join(where)})")


def _place(error: BaseException) -> str:
    """Return file and line of the innermost frame in the user's code; "" if there is none."""
    file, line = "", 0
    if isinstance(error, SyntaxError) and _is_user_file(error.filename):
        file, line = str(error.filename), error.lineno or 0
    else:
        for frame in traceback.extract_tb(error.__traceback__):
            if _is_user_file(frame.filename):
                file, line = frame.filename, frame.lineno or 0
    if not file:
        return ""
    path, current = Path(file).resolve(), Path.cwd()
    return f"{path.relative_to(current) if path.is_relative_to(current) else path}, line {line}"


def _is_user_file(file: str | None) -> bool:
    if not file or file.startswith("<"):
        return False
    path = Path(file).resolve()
    return not any(path.is_relative_to(folder) for folder in _NOT_USER_CODE)
