"""A lock on a run folder, since two commands in it would overwrite each other's metadata and checkpoints."""

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
    """Create the folder if needed, and lock it for this process.

    The kernel releases the lock when the process ends, even if it is killed, so no stale lock can remain. The content
    of the lock file only names the holder.

    Raises:
        ResourceError: `E_RUN_LOCKED`, which names the holder; `E_LOCK_UNSUPPORTED` if the file system has no locks;
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
            "Wait until it ends, or give the experiment another `name` or `runs` folder.",
        ) from None
    except OSError as error:
        raise ResourceError(
            "E_LOCK_UNSUPPORTED",
            f"Expected a file system with file locks at {folder}. Received: {error.strerror}. "
            "Without a lock two runs could damage each other: put `runs` on a local disk.",
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
    except (ValueError, KeyError, TypeError):  # the holder has locked the file, but not written to it yet
        return "another command that has just started"
