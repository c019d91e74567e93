"""Local copies of what lies in an object store, made once for each content and shared by all readers."""

import hashlib
import os
import secrets
import shutil
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from os import PathLike, fspath
from pathlib import Path

from anchorage.disk import disk_trouble
from anchorage.storage.addresses import is_remote, parent
from anchorage.storage.faults import MissingObjectError
from anchorage.storage.folders import copy_entries, mark_copy, upload
from anchorage.storage.objects import endpoint, find_object, list_files
from anchorage.storage.stores import Entry

CACHE = "ANCHORAGE_CACHE"  # variable of the environment: the folder of copies

_UNUSED_SECONDS = 24 * 3600.0  # after which a copy that no process uses is removed
_PARTS = ".part"  # ending of a copy that is being made
_LOCK = ".lock"  # ending of the file that its users lock


@contextmanager
def local_input(uri: str | PathLike) -> Iterator[Path]:
    """Yield a local path with the content of an address: the path itself, or a copy of the object or the folder.

    Copies lie in the folder `$ANCHORAGE_CACHE` (default: `~/.cache/anchorage`), one for each content of a URI, so that
    several readers, also of different processes, copy once. One that nobody has used for a day is removed.
    The copy must not be changed.

    Raises:
        MissingObjectError: `E_OBJECT_MISSING`; a path of this machine is not checked.
    """
    if not is_remote(uri):
        yield Path(uri)
        return
    with Copy(fspath(uri)) as copy:
        yield copy.path


@contextmanager
def local_output(uri: str | PathLike) -> Iterator[Path]:
    """Yield a local folder to write into: that of the path itself, or one whose files are then copied to the URI.

    Nothing is copied if the block raises. The folder becomes the copy of the URI that `local_input` yields.
    """
    if not is_remote(uri):
        Path(uri).mkdir(parents=True, exist_ok=True)
        yield Path(uri)
        return
    cache = _prepare()
    folder = cache / f"{secrets.token_hex(16)}{_PARTS}"
    handle = _open_shared(folder.with_suffix(_LOCK))
    try:
        with disk_trouble(cache):
            folder.mkdir()
        yield folder
        upload(folder, fspath(uri))
        _adopt(folder, fspath(uri))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(_LOCK).unlink(missing_ok=True)
        os.close(handle)


class Copy:
    """A copy of an object or a folder in the cache, which stays until `close`, or until nobody refers to this object.

    Args:
        uri: the object or folder.
        wanted: which objects below the folder, by their relative paths; None for all.

    Attributes:
        uri: the object or folder.
        path: the local file or folder.

    Raises:
        MissingObjectError: `E_OBJECT_MISSING`.
        ResourceError: `E_DISK_FULL`, `E_NOT_WRITABLE`.
    """

    def __init__(self, uri: str, wanted: Callable[[str], bool] | None = None):
        self.uri = uri.rstrip("/")
        entry = find_object(uri)
        name = self.uri.rpartition("/")[2]
        entries = {name: entry} if entry else list_files(uri)
        if wanted is not None:
            entries = {name: entries[name] for name in entries if wanted(name)}
        if not entries:
            raise MissingObjectError(uri)
        cache = _prepare()
        folder = cache / _name(uri, entries)
        with disk_trouble(cache):
            self._lock = folder.with_suffix(_LOCK)
            handle = _open_shared(self._lock)
            self.close = weakref.finalize(self, os.close, handle)
            try:
                if not folder.is_dir():
                    _make(folder, parent(uri) if entry else uri, entries, handle)
            except BaseException:  # whoever keeps the error keeps this object, too
                self.close()
                raise
        self.path = folder / name if entry else folder

    def discard(self) -> None:
        """Remove a damaged copy, unless another process uses it; its next reader makes a new one."""
        for file in self._lock.with_suffix("").rglob("*"):
            with suppress(FileNotFoundError):
                os.utime(file)  # it is no copy any more, under none of its links
        self.close()
        with suppress(FileNotFoundError):
            _remove(self._lock)

    def __enter__(self) -> "Copy":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def cache_folder() -> Path:
    """Return the folder of copies, which may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(os.environ.get(CACHE) or Path(base) / "anchorage")


def _prepare() -> Path:
    """Make the folder of copies, and remove what nobody uses."""
    cache = cache_folder()
    with disk_trouble(cache):
        cache.mkdir(parents=True, exist_ok=True)
        remove_unused(cache)
    return cache


def _name(uri: str, entries: Mapping[str, Entry]) -> str:
    """Return the name of the copy of these objects: one part for their place, one for their contents."""
    return "-".join(hashlib.sha256(repr(part).encode()).hexdigest()[:20] for part in ((endpoint(uri), uri), entries))


def _adopt(folder: Path, uri: str) -> None:
    """Make a folder that was copied to a URI its copy, unless there are other objects."""
    import fcntl

    entries = list_files(uri)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    if sizes != {name: entry.size for name, entry in entries.items()}:
        return
    for name, entry in entries.items():
        mark_copy(folder / name, entry)
    copy = folder.with_name(_name(uri, entries))
    handle = _open_shared(copy.with_suffix(_LOCK))
    with suppress(BlockingIOError):  # a reader makes it already
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not copy.is_dir():
            folder.rename(copy)
    os.close(handle)


def remove_unused(cache: Path) -> None:
    """Remove the copies, complete or not, that no process uses and none has used for a day."""
    for path in cache.glob(f"*{_LOCK}"):
        if _is_old(path):
            _remove(path, _is_old)


def _remove(lock: Path, condition: Callable[[Path], bool] = Path.exists) -> None:
    """Remove a copy unless a process uses it, or the condition no longer holds when none can begin to."""
    import fcntl  # not on Windows

    with lock.open("ab") as handle, suppress(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if condition(lock):
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            shutil.rmtree(lock.with_suffix(_PARTS), ignore_errors=True)
            lock.unlink(missing_ok=True)


def _make(folder: Path, uri: str, entries: Mapping[str, Entry], handle: int) -> None:
    """Copy objects to the folder; of several processes one does, and the others wait for it."""
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX)
    if not folder.is_dir():
        parts = folder.with_suffix(_PARTS)  # what a killed process has copied is used
        parts.mkdir(exist_ok=True)
        copy_entries(uri, entries, parts, _copies_beside(folder))
        parts.rename(folder)
    fcntl.flock(handle, fcntl.LOCK_SH)


def _copies_beside(folder: Path) -> list[Path]:
    """Return the other copies of the same place, of what it contained before."""
    place, _, _ = folder.name.partition("-")
    return [copy for copy in folder.parent.glob(f"{place}-*") if copy.is_dir() and not copy.suffix]


def _open_shared(path: Path) -> int:
    """Open and lock the file that keeps a copy from being removed; its time says when the copy was last used."""
    import fcntl

    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(handle, fcntl.LOCK_SH)
        os.utime(handle)
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            return handle
        os.close(handle)  # removed between the two calls


def _is_old(path: Path) -> bool:
    return path.exists() and time.time() - path.stat().st_mtime > _UNUSED_SECONDS
