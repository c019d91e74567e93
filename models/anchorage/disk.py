"""A disk that is full or read-only: checked before large writes, recognised below any library's error."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anchorage.errors import AnchorageError, ResourceError, causes

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO}
_RESERVE = 1 << 20  # room for the manifest, the pointer and the folders themselves

# What Beam, TensorFlow and SQLite say of the same faults, where they keep the words and drop the number.
_WORDS = {
    "No space left on device": errno.ENOSPC,
    "disk is full": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "File too large": errno.EFBIG,
    "Read-only file system": errno.EROFS,
    "readonly database": errno.EROFS,
    "disk I/O error": errno.EIO,  # SQLite's words, also for a limit on file size
    "Permission denied": errno.EACCES,
    "Operation not permitted": errno.EPERM,
}
_RIGHTS = "Give this user the right to it, or name another folder."
_ADVICE = {errno.EIO: "Look at the disk, at its quota and at limits on file size, then run the same command again."}
_NUMBER = re.compile(r"\[Errno (\d+)\]")


def make_folder(folder: Path) -> None:
    """Make a folder that files can be written into.

    Raises:
        ResourceError: `E_NOT_WRITABLE`, also where a file is in the way; `E_DISK_FULL`.
    """
    with disk_trouble(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise _not_writable(folder, "a file is in the way") from error
        probe = folder / f".probe-{os.getpid()}"
        try:
            probe.write_bytes(b"\0")  # permission bits say nothing about read-only file systems
        finally:
            probe.unlink(missing_ok=True)


def check_free_space(folder: Path, needed: int) -> None:
    """Raise `E_DISK_FULL` before the first byte is written where `needed` bytes have no room."""
    free = _free(folder)
    if free < needed + _RESERVE:
        raise _disk_full(folder, needed + _RESERVE, free)


@contextmanager
def disk_trouble(folder: Path, needed: int | None = None) -> Iterator[None]:
    """Turn the system's errors about a full or closed disk into a `ResourceError` that names the place."""
    try:
        yield
    except OSError as error:
        if (fault := disk_fault(error, folder, needed)) is not None:
            raise fault from error
        raise


def disk_fault(error: BaseException, folder: Path, needed: int | None = None) -> ResourceError | None:
    """The disk's part in an error, however deep it lies below what libraries wrapped around it.

    Args:
        error: what was caught.
        folder: where was written to, as far as is known; the system's own error may name the file.
        needed: bytes that were to be written, if that is known.

    Returns:
        `E_DISK_FULL`, `E_NOT_WRITABLE`, or None if the disk has no part in it.
    """
    for cause in causes(error):
        if isinstance(cause, AnchorageError):
            return None
        number = _number(cause)
        place = Path(cause.filename) if isinstance(cause, OSError) and isinstance(cause.filename, str) else folder
        if number in _FULL:
            return _disk_full(folder if needed is not None else place, needed, _free(place))
        if number in _CLOSED:
            return _not_writable(place, os.strerror(number), _ADVICE.get(number, _RIGHTS))
    return None


def _number(error: BaseException) -> int:
    """The system's number of the fault, or 0."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    text = str(error)
    if found := _NUMBER.search(text):
        return int(found[1])
    return next((number for words, number in _WORDS.items() if words in text), 0)


def _free(folder: Path) -> int:
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _disk_full(folder: Path, needed: int | None, free: int) -> ResourceError:
    room = "room to go on writing" if needed is None else f"room for {needed:,} bytes"
    return ResourceError(
        "E_DISK_FULL",
        f"Expected {room} in {folder}. Received: {free:,} bytes free (a quota or a limit on file "
        "size counts too). What was there before is whole; free some space and run the same command again.",
    )


def _not_writable(folder: Path, reason: str, advice: str = _RIGHTS) -> ResourceError:
    return ResourceError("E_NOT_WRITABLE", f"Expected to write to {folder}. Received: {reason}. {advice}")
