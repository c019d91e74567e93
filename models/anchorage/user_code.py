"""Faults in modules of the user's own, named "package.module:ClassName": the user is told where, in their file."""

import re
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anchorage.errors import AnchorageError, UsageError

_PROJECT = Path(__file__).resolve().parents[2]
_NOT_THEIRS = [
    *(_PROJECT / package for package in ("models", "components", "pipeline", "kubeflow")),
    *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")),
]
# What Keras puts around the message of an error in a layer's `call`.
_KERAS = re.compile(r"Exception encountered when calling .*?\x1b\[1m(?:.*Error encountered:)?(.*?)\x1b\[0m", re.DOTALL)


@contextmanager
def user_code(name: str) -> Iterator[None]:
    """Runs what a dotted name stands for; whatever it raises becomes a `UsageError`, and so does `sys.exit`.

    Args:
        name: `"package.module:ClassName"`; anything else is a name of ours, whose errors go on as they are.

    Raises:
        UsageError: E_USER_CODE, with the module's own message, its file and line.
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
    """What to tell the user of an error that came out of a module of theirs; None if it came from elsewhere.

    A module is the user's if it is neither this project's nor installed.
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
        told = f"it calls sys.exit({error.code!r:.40})"
    elif isinstance(error, SyntaxError):
        told = error.msg
    else:
        injected = _KERAS.search(str(error.args[0]) if error.args else "")
        told = " ".join((injected[1] if injected else str(error)).split()) or "no message"
    where = [part for part in (place, repr(name) if name else "") if part]
    return UsageError("E_USER_CODE", f"{told} ({kind} in {', '.join(where)})")


def _place(error: BaseException) -> str:
    """File and line of the user's code that an error came out of; "" if none of it was at work."""
    file, line = "", 0
    if isinstance(error, SyntaxError) and _is_theirs(error.filename):
        file, line = str(error.filename), error.lineno or 0
    else:
        for frame in traceback.extract_tb(error.__traceback__):
            if _is_theirs(frame.filename):
                file, line = frame.filename, frame.lineno or 0
    if not file:
        return ""
    path, here = Path(file).resolve(), Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}, line {line}"


def _is_theirs(file: str | None) -> bool:
    if not file or file.startswith("<"):
        return False
    path = Path(file).resolve()
    return not any(path.is_relative_to(folder) for folder in _NOT_THEIRS)
