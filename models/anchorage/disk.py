"""Full and read-only disks: checks before large writes, and detection of disk errors that libraries wrap."""

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
_RESERVE = 1 << 20  # bytes for the manifest, the pointer and the folders themselves

# Messages of Beam, TensorFlow and SQLite for the same errors, which they raise without the error number.
_WORDS = {
    "No space left on device": errno.ENOSPC,
    "disk is full": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "File too large": errno.EFBIG,
    "Read-only file system": errno.EROFS,
    "readonly database": errno.EROFS,
    "disk I/O error": errno.EIO,  # SQLite, also for a limit on file size
    "Permission denied": errno.EACCES,
    "Operation not permitted": errno.EPERM,
}
_RIGHTS = "Give this user write permission, or choose another folder."
_ADVICE = {errno.EIO: "Check the disk, its quota and limits on file size, then run the same command again."}
_NUMBER = re.compile(r"\[Errno (\d+)\]")


def make_folder(folder: Path) -> None:
    """Create a folder and check that files can be written to it.

    Raises:
        ResourceError: `E_NOT_WRITABLE`, also if a file of this name exists; `E_DISK_FULL`.
    """
    with disk_trouble(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise _not_writable(folder, "a file of this name exists") from error
        probe = folder / f".probe-{os.getpid()}"
        try:
            probe.write_bytes(b"\0")  # permission bits do not show a read-only file system
        finally:
            probe.unlink(missing_ok=True)


def check_free_space(folder: Path, needed: int) -> None:
    """Raise `E_DISK_FULL` unless the disk has `needed` bytes free; call it before writing."""
    free = _free(folder)
    if free < needed + _RESERVE:
        raise _disk_full(folder, needed + _RESERVE, free)


@contextmanager
def disk_trouble(folder: Path, needed: int | None = None) -> Iterator[None]:
    """Convert operating-system errors of a full or read-only disk to a `ResourceError` that names the path."""
    try:
        yield
    except OSError as error:
        if (fault := disk_fault(error, folder, needed)) is not None:
            raise fault from error
        raise


def disk_fault(error: BaseException, folder: Path, needed: int | None = None) -> ResourceError | None:
    """Find a disk error anywhere in the chain of causes of an exception.

    Args:
        error: the caught exception.
        folder: where the data was written; the operating system's error can name the exact file.
        needed: number of bytes to write, if known.

    Returns:
        `E_DISK_FULL`, `E_NOT_WRITABLE`, or None if the disk is not the cause.
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
    """Return the `errno` of an error, or 0."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    text = str(error)
    if match := _NUMBER.search(text):
        return int(match[1])
    return next((number for words, number in _WORDS.items() if words in text), 0)


def _free(folder: Path) -> int:
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _disk_full(folder: Path, needed: int | None, free: int) -> ResourceError:
    space = "free space to continue writing" if needed is None else f"{needed:,} bytes of free space"
    return ResourceError(
        "E_DISK_FULL",
        f"Expected {space} in {folder}. Received: {free:,} bytes free (a quota or a limit on file "
        "size also counts). Existing files are intact; free some space and run the same command again.",
    )


def _not_writable(folder: Path, reason: str, advice: str = _RIGHTS) -> ResourceError:
    return ResourceError("E_NOT_WRITABLE", f"Expected to write to {folder}. Received: {reason}. {advice}")
