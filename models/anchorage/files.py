"""Atomic file operations: write to a temporary file, flush it to the disk, then rename it."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp-"  # not a number, so TensorFlow Serving does not load such a folder as a version

_CHUNK = 1 << 20


def copy_hashed(source: Path, target: Path) -> tuple[str, int]:
    """Copy a file, flush it to the disk, and return the SHA-256 and size of the copied data."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            writer.write(chunk)
        _flush(writer)
    return digest.hexdigest(), size


def write_hashed(data: bytes, target: Path) -> tuple[str, int]:
    """Write `data` to a new file, flush it to the disk, and return its SHA-256 and size."""
    with target.open("xb") as writer:
        writer.write(data)
        _flush(writer)
    return hashlib.sha256(data).hexdigest(), len(data)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as reader:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def digest(value: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of `value` as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def flush_folders(folder: Path) -> None:
    """Flush the directory entries of `folder` and its subfolders to the disk."""
    for path in [*(p for p in folder.rglob("*") if p.is_dir()), folder]:
        flush_folder(path)


def flush_folder(folder: Path) -> None:
    """Flush the directory entries of `folder` to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, data: bytes) -> None:
    """Replace the content of a file atomically: a reader sees the old content or the new."""
    temporary = path.with_name(f"{TEMPORARY}{path.name.lstrip('.')}-{secrets.token_hex(4)}")
    try:
        write_hashed(data, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    flush_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed writers from `folder`; call it only while holding the lock."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's exclusive writer lock, which the kernel releases when the process dies."""
    import fcntl  # not on Windows, where reading works without it

    with (folder / ".lock").open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _flush(writer) -> None:
    writer.flush()
    os.fsync(writer.fileno())
