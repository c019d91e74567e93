"""One command at a time in a run's folder: two would share its metadata, checkpoints and artifacts."""

import fcntl
import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from anchorage.disk import disk_trouble, make_folder
from anchorage.errors import ResourceError

LOCK = ".run.lock"


@contextmanager
def hold_folder(folder: Path, experiment: str) -> Iterator[None]:
    """Make the folder if it is not there, and be the only command in it.

    The kernel holds the lock for the process and frees it however the process ends, so a killed command leaves nothing
    to clean up. The file's content only tells others who the holder is.

    Raises:
        ResourceError: `E_RUN_LOCKED` naming the holder, `E_LOCK_UNSUPPORTED` where the file system has no locks,
            `E_NOT_WRITABLE` or `E_DISK_FULL`.
    """
    make_folder(folder)
    with disk_trouble(folder), (folder / LOCK).open("a+", encoding="utf-8") as file:
        _lock(file, folder)
        _write(file, json.dumps(_describe_holder(experiment)))
        try:
            yield
        finally:
            file.truncate(0)


def _lock(file: IO[str], folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ResourceError(
            "E_RUN_LOCKED",
            f"Expected {folder} to be free. It is in use by {_read_holder(file)}. "
            "Wait until that ends, or give the experiment another `name` or `runs` folder.",
        ) from None
    except OSError as error:
        raise ResourceError(
            "E_LOCK_UNSUPPORTED",
            f"Expected a file system with file locks at {folder}. Received: {error.strerror}. "
            "Without a lock two runs could damage one another: put `runs` on a local disk.",
        ) from error


def _write(file: IO[str], text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()


def _describe_holder(experiment: str) -> dict[str, str | int]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "experiment": experiment,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _read_holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return "process {pid} on {host}, started {since}, experiment {experiment!r}, command `{command}`".format(
            **holder
        )
    except (ValueError, KeyError, TypeError):  # it has the lock, but has not said yet who it is
        return "another command that has just started"
