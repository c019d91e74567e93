"""Releases in an object store, which can neither rename a folder nor lock one.

    releases/.claims/<version>   who publishes this version, written before its files, never deleted
    releases/<version>/          its files; the manifest is written last, and without one the version does not exist
    releases/current             the current version

Objects are written under conditions: claim and manifest only if absent, the pointer only over the one that was read.
"""

import logging
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from anchorage.disk import check_free_space, disk_trouble
from anchorage.errors import AnchorageError, UsageError
from anchorage.release import manifest as manifests
from anchorage.release.naming import POINTER, numbers, whole_number
from anchorage.storage import (
    Copy,
    Entry,
    LostRaceError,
    MissingObjectError,
    delete,
    delete_tree,
    exists,
    find_object,
    join,
    list_files,
    read_object,
    upload,
    write_bytes,
)

_CLAIMS = ".claims"
_ABANDONED_SECONDS = 24 * 3600.0  # without a new object of a version: its publisher is dead
_ATTEMPTS = 100  # each fails only if another writer succeeds
_log = logging.getLogger(__name__)


class StoredReleases:
    """A folder of an object store."""

    def __init__(self, uri: str):
        self.address = uri.rstrip("/")
        self._token = secrets.token_hex(8)
        self._claims: dict[int, str] = {}  # etag of each claim of this object

    def exists(self) -> bool:
        return exists(self.address)

    def is_release(self) -> bool:
        return find_object(join(self.address, manifests.NAME)) is not None

    def versions(self) -> list[int]:
        return _versions(list_files(self.address))

    def open(self, address: str) -> Copy:
        return Copy(address)

    def sizes(self, version: int) -> dict[str, int]:
        return {name: entry.size for name, entry in list_files(join(self.address, str(version))).items()}

    def read_pointer(self) -> str | None:
        try:
            return read_object(self._pointer)[0].decode("ascii")
        except MissingObjectError:
            return None

    def point_to(self, version: int, *, forward: bool = False) -> None:
        for _ in range(_ATTEMPTS):
            try:
                content, etag = read_object(self._pointer)
            except MissingObjectError:
                content, etag = b"", None
            with suppress(ValueError):  # a damaged pointer is replaced
                if forward and (current := whole_number(content.decode("ascii").strip())) > version:
                    _log.warning("release %d is not the current one: %d was published meanwhile", version, current)
                    return
            with suppress(LostRaceError):
                _write_once(self._pointer, f"{version}\n".encode(), etag)
                return
        raise LostRaceError(self._pointer)

    @contextmanager
    def writing(self, needed: int = 0) -> Iterator[None]:
        remove_abandoned(self.address)
        yield

    def claim(self, known: Iterable[int]) -> int:
        names = list(list_files(self.address))
        taken = [name.split("/")[1] if name.startswith(f"{_CLAIMS}/") else name.split("/")[0] for name in names]
        version = max([0, *known, *numbers(taken)]) + 1
        while True:
            with suppress(LostRaceError):
                self._claims[version] = _write_once(self._claim(version), self._signed("claimed"), None)
                self._check_conditions(version)
                return version
            version += 1

    @contextmanager
    def staging(self, version: int, needed: int) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="anchorage-") as name, disk_trouble(Path(name), needed):
            check_free_space(Path(name), needed)
            yield Path(name)

    def add(self, version: int, folder: Path, seal: Callable[[], bytes]) -> None:
        uri = join(self.address, str(version))
        try:
            upload(folder, uri)
            # Whoever took this publication for abandoned has changed the claim; from here on, nobody does for a day.
            _write_once(self._claim(version), self._signed("complete"), self._claims.pop(version))
            _write_once(join(uri, manifests.NAME), seal(), None)  # from here on the release is visible, and complete
        except BaseException:
            with suppress(AnchorageError):
                if find_object(join(uri, manifests.NAME)) is None:
                    delete_tree(uri)
            raise

    def remove(self, version: int) -> None:
        uri = join(self.address, str(version))
        delete(join(uri, manifests.NAME))
        delete_tree(uri)

    @property
    def _pointer(self) -> str:
        return join(self.address, POINTER)

    def _claim(self, version: int) -> str:
        return join(self.address, _CLAIMS, str(version))

    def _signed(self, state: str) -> bytes:
        return f"{state} by {self._token}\n".encode()

    def _check_conditions(self, version: int) -> None:
        """Refuse a store that ignores the condition of a write: two publishers would destroy each other's release."""
        with suppress(LostRaceError):
            write_bytes(self._claim(version), self._signed("claimed"), if_absent=True)
            raise UsageError(
                "E_OBJECT_CONDITIONS",
                "Expected a store that refuses to write an existing object with `If-None-Match: *`, or "
                f"`ifGenerationMatch=0`. Received: the store of {self.address} wrote it. Nothing was published. Take a "
                "newer version of the store, or another one.",
            )


def find_abandoned(uri: str) -> dict[int, dict[str, Entry]]:
    """Return the objects of versions without a manifest that have had no new object for a day, by version."""
    files = list_files(uri)
    visible, now = set(_versions(files)), time.time()
    found: dict[int, dict[str, Entry]] = {}
    for name, entry in files.items():
        folder = name.split("/")[0]
        if "/" in name and numbers([folder]) and int(folder) not in visible:
            found.setdefault(int(folder), {})[name] = entry
    newest = {
        version: max(entry.changed for entry in (*entries.values(), *_get(files, f"{_CLAIMS}/{version}")))
        for version, entries in found.items()
    }
    return {version: entries for version, entries in found.items() if now - newest[version] > _ABANDONED_SECONDS}


def remove_abandoned(uri: str) -> None:
    """Remove what killed publications left; one that is only slow loses its claim first, so that it cannot end."""
    for version in find_abandoned(uri):
        claim = join(uri, _CLAIMS, str(version))
        with suppress(LostRaceError):  # it goes on
            try:
                etag = read_object(claim)[1]
            except MissingObjectError:  # not written by this package
                continue
            if version in find_abandoned(uri):
                _write_once(claim, f"removed by {secrets.token_hex(8)}\n".encode(), etag)
                delete_tree(join(uri, str(version)))
                _log.warning("release %d, which was never completed, is removed from %s", version, uri)


def _versions(files: Mapping[str, Entry]) -> list[int]:
    names = [name.split("/") for name in files]
    return numbers([parts[0] for parts in names if parts[1:] == [manifests.NAME]])


def _get(files: Mapping[str, Entry], name: str) -> list[Entry]:
    return [files[name]] if name in files else []


def _write_once(uri: str, data: bytes, etag: str | None) -> str:
    """Write an object if it is absent, or over the one with this etag; `LostRaceError` if another process was first.

    A client repeats a request whose answer was lost, and the repeated one finds what the first has written.
    """
    try:
        return write_bytes(uri, data, if_absent=etag is None, if_match=etag)
    except LostRaceError:
        with suppress(MissingObjectError):
            content, written = read_object(uri)
            if content == data:
                return written
        raise
