"""Places of releases: a local folder, or a folder in an object store."""

import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import Protocol

from anchorage.disk import check_free_space, disk_trouble
from anchorage.errors import UsageError
from anchorage.files import (
    TEMPORARY,
    flush_folder,
    flush_folders,
    locked,
    remove_leftovers,
    replace_file,
    write_hashed,
)
from anchorage.release import manifest as manifests
from anchorage.release.naming import POINTER, numbers, whole_number
from anchorage.release.stored import StoredReleases
from anchorage.storage import Copy, is_remote, join

COUNTER = ".last-version"


class Place(Protocol):
    """A folder of releases, which publishing writes to and reading reads from.

    Attributes:
        address: its path or URI.
    """

    address: str

    def exists(self) -> bool:
        """Return whether there is anything."""

    def is_release(self) -> bool:
        """Return whether this is the folder of one release."""

    def versions(self) -> list[int]:
        """Return the numbers of all versions that readers can see, intact or not, unsorted."""

    def open(self, address: str) -> "Path | Copy":
        """Return a local folder with the files of a release."""

    def sizes(self, version: int) -> dict[str, int]:
        """Return the bytes of each file of a version by its relative path."""

    def read_pointer(self) -> str | None:
        """Return the content of the pointer, or None; raise `OSError` or `ValueError` if it cannot be read."""

    def point_to(self, version: int, *, forward: bool = False) -> None:
        """Make a version the current one; with `forward`, only if no higher one is."""

    def writing(self, needed: int = 0) -> AbstractContextManager[None]:
        """Write to this place: create it if missing, and remove what killed publications left."""

    def claim(self, known: Iterable[int]) -> int:
        """Return a number that no version has had: one more than the greatest that is known, exists or existed."""

    def staging(self, version: int, needed: int) -> AbstractContextManager[Path]:
        """Yield an empty folder of this machine for the files of a claimed version."""

    def add(self, version: int, folder: Path, seal: Callable[[], bytes]) -> None:
        """Make the files of `staging` visible as a version at once, with the manifest that `seal` returns last."""

    def remove(self, version: int) -> None:
        """Remove a version; readers see all of it or nothing."""


def find_place(releases: str | PathLike) -> Place:
    """Return the folder of releases at a path or a URI, which may not exist.

    Raises:
        UsageError: `E_ADDRESS` for a URI of an unknown scheme.
    """
    return StoredReleases(fspath(releases)) if is_remote(releases) else LocalReleases(Path(releases))


def version_address(releases: str | PathLike, version: int) -> str:
    """Return path or URI of a version in a folder of releases."""
    return join(releases if is_remote(releases) else Path(releases).absolute(), str(version))


class LocalReleases:
    """A folder of this machine: a version is written beside the others and renamed; a lock keeps writers apart."""

    def __init__(self, folder: Path):
        self._folder = folder.absolute()
        self.address = str(self._folder)

    def exists(self) -> bool:
        return self._folder.is_dir()

    def is_release(self) -> bool:
        return (self._folder / manifests.NAME).is_file()

    def versions(self) -> list[int]:
        return numbers([path.name for path in self._folder.iterdir() if path.is_dir()]) if self.exists() else []

    def open(self, address: str) -> Path:
        return Path(address)

    def sizes(self, version: int) -> dict[str, int]:
        folder = self._folder / str(version)
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}

    def read_pointer(self) -> str | None:
        try:
            return (self._folder / POINTER).read_text(encoding="ascii")
        except FileNotFoundError:
            return None

    def point_to(self, version: int, *, forward: bool = False) -> None:  # nobody else writes meanwhile
        pointer = self._folder / POINTER
        if pointer.is_dir():  # not written by this package, so rename it
            pointer.rename(pointer.with_name(f"{POINTER}-{secrets.token_hex(4)}"))
        replace_file(pointer, f"{version}\n".encode())

    @contextmanager
    def writing(self, needed: int = 0) -> Iterator[None]:
        if self._folder.exists() and not self.exists():
            raise UsageError("E_RELEASE_MISSING", f"Expected a folder of releases at {self.address}. Received: a file.")
        with disk_trouble(self._folder, needed):
            self._folder.mkdir(parents=True, exist_ok=True)
            with locked(self._folder):
                remove_leftovers(self._folder)
                yield

    def claim(self, known: Iterable[int]) -> int:
        try:
            last = whole_number((self._folder / COUNTER).read_text(encoding="ascii").strip())
        except (OSError, ValueError):
            last = 0  # no counter or a damaged one: use the folders
        return max([last, *known, *self.versions()]) + 1

    @contextmanager
    def staging(self, version: int, needed: int) -> Iterator[Path]:
        check_free_space(self._folder, needed)
        temporary = self._folder / f"{TEMPORARY}{version}-{secrets.token_hex(4)}"
        try:
            temporary.mkdir()
            yield temporary
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def add(self, version: int, folder: Path, seal: Callable[[], bytes]) -> None:
        write_hashed(seal(), folder / manifests.NAME)
        flush_folders(folder)
        replace_file(self._folder / COUNTER, f"{version}\n".encode())
        folder.rename(self._folder / str(version))  # from here on the release is visible, and complete
        flush_folder(self._folder)

    def remove(self, version: int) -> None:
        aside = self._folder / f"{TEMPORARY}{version}-{secrets.token_hex(4)}"
        with locked(self._folder):
            (self._folder / str(version)).rename(aside)
            shutil.rmtree(aside)
