"""Files that are either whole or not there: written aside, flushed to the disk, then renamed."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".tmp-"  # never a whole number, so TF Serving does not take such a folder for a version

_CHUNK = 1 << 20


def copy_hashed(source: Path, target: Path) -> tuple[str, int]:
    """Copies one file to the disk and returns the SHA-256 and size of what was copied."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            writer.write(chunk)
        _flush(writer)
    return digest.hexdigest(), size


def write_hashed(data: bytes, target: Path) -> tuple[str, int]:
    """Writes `data` to the disk as a new file; returns its SHA-256 and size."""
    with target.open("xb") as writer:
        writer.write(data)
        _flush(writer)
    return hashlib.sha256(data).hexdigest(), len(data)


def hash_file(path: Path) -> str:
    """SHA-256 of one file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as reader:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def flush_folders(folder: Path) -> None:
    """Makes the names inside `folder` and its subfolders survive a loss of power."""
    for path in [*(p for p in folder.rglob("*") if p.is_dir()), folder]:
        flush_folder(path)


def flush_folder(folder: Path) -> None:
    """Makes the names inside `folder` survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, data: bytes) -> None:
    """Gives `path` a new content in one step: a reader sees the old one or the new one."""
    aside = path.with_name(f"{TEMPORARY}{path.name.lstrip('.')}-{secrets.token_hex(4)}")
    try:
        write_hashed(data, aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    flush_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Removes what killed writers left in `folder`; call it only while holding the lock."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder's writer lock; waits for another writer. The kernel frees it when the process dies."""
    import fcntl  # Windows has none; what only reads files works there all the same

    with (folder / ".lock").open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _flush(writer) -> None:
    writer.flush()
    os.fsync(writer.fileno())
