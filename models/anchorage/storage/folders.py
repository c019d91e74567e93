"""Folders of an object store on this machine, and back."""

import os
import secrets
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from os import PathLike
from pathlib import Path

from anchorage.disk import check_free_space, disk_trouble
from anchorage.files import TEMPORARY
from anchorage.progress import advance, task
from anchorage.storage.addresses import check_names, join
from anchorage.storage.faults import LostRaceError, MissingObjectError
from anchorage.storage.objects import fetch_object, list_files, send_object
from anchorage.storage.stores import PARALLEL, Entry

_SECOND = 10**9  # nanoseconds


def download(uri: str, folder: str | PathLike) -> Path:
    """Copy all objects below a URI into a local folder, several at once.

    A file appears under its name when it is complete. Files that an earlier call copied, and whose objects have not
    changed since, are not copied again; other files in the folder stay.

    Args:
        uri: a folder of an object store.
        folder: local folder, created if missing.

    Returns:
        The folder.

    Raises:
        MissingObjectError: `E_OBJECT_MISSING` if there is no object below the URI.
        DataError: `E_OBJECT_NAME` for a name that leads out of the folder.
        ResourceError: `E_DISK_FULL`, `E_NOT_WRITABLE`, and what `Store.trouble` raises.
    """
    entries = list_files(uri)
    if not entries:
        raise MissingObjectError(uri)
    folder = Path(folder)
    with disk_trouble(folder):
        folder.mkdir(parents=True, exist_ok=True)
        copy_entries(uri, entries, folder)
    return folder


def upload(folder: str | PathLike, uri: str, *, last: str | None = None) -> None:
    """Copy all files of a local folder below a URI, several at once.

    Args:
        folder: local folder; temporary files of `anchorage.files` in it are left out.
        uri: a folder of an object store, whose other objects stay.
        last: relative path of the file that is copied when all others are there, such as a manifest.
    """
    folder = Path(folder)
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    names = [path.as_posix() for path in paths if not any(part.startswith(TEMPORARY) for part in path.parts)]

    def send(name: str) -> None:
        send_object(folder / name, join(uri, name))

    _at_once(send, [name for name in names if name != last], f"copying to {uri}")
    if last is not None:
        send(last)


def copy_entries(uri: str, entries: Mapping[str, Entry], folder: Path, earlier: Sequence[Path] = ()) -> None:
    """Copy objects below a URI into an existing folder, as `download` does.

    Args:
        uri: a folder of an object store.
        entries: the objects, by their relative paths.
        folder: local folder.
        earlier: other copies of the place, whose files are linked where their objects have not changed.

    Raises:
        LostRaceError: `E_OBJECT_CHANGED` if one of them was written meanwhile.
    """
    check_names(uri, entries)  # before any of them becomes a path
    _link_unchanged(entries, folder, earlier)
    missing = {name: entry for name, entry in entries.items() if not is_copy(folder / name, entry)}
    check_free_space(folder, sum(entry.size for entry in missing.values()))

    def fetch(name: str) -> None:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
        try:
            fetch_object(join(uri, name), entries[name], temporary)
            if temporary.stat().st_size != entries[name].size:
                raise LostRaceError(join(uri, name))
            mark_copy(temporary, entries[name])
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    _at_once(fetch, list(missing), f"copying {uri}")


def _link_unchanged(entries: Mapping[str, Entry], folder: Path, earlier: Sequence[Path]) -> None:
    """Take the files whose objects have not changed from earlier copies."""
    for name, entry in entries.items():
        for copy in earlier:
            if is_copy(copy / name, entry):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with suppress(OSError):  # it was removed just now, or the file system has no links
                    os.link(copy / name, folder / name)
                break


def is_copy(path: Path, entry: Entry) -> bool:
    """Return whether a file is a copy of this object, made by this module."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return (status.st_size, status.st_mtime_ns) == (entry.size, _stamp(entry))


def mark_copy(path: Path, entry: Entry) -> None:
    """Say of a file with the content of an object that it is its copy, by the time of change."""
    os.utime(path, ns=(_stamp(entry),) * 2)


def _stamp(entry: Entry) -> int:
    """Return the time of change of a copy: the second is the object's, the fraction tells contents apart."""
    return int(entry.changed) * _SECOND + zlib.crc32(entry.etag.encode()) % _SECOND


def _at_once(work: Callable[[str], None], names: Sequence[str], title: str) -> None:
    """Run `work` on each name in several threads; the first error ends it."""
    with task(title, total=len(names)), ThreadPoolExecutor(PARALLEL) as pool:
        try:
            for future in as_completed([pool.submit(work, name) for name in names]):
                future.result()
                advance(title)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
