"""Which files belong to a data folder: listing, ingestion and the digest of the data go by this one rule.

A path belongs to the folder if it stays inside it, as written and after all symbolic links, or if the data says that
links may lead elsewhere. Hidden names (".x") do not belong to it.
"""

# Strings, since a data set may have millions of paths and each `Path` costs several microseconds.
# ruff: noqa: PTH112, PTH114, PTH118

import errno
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from anchorage.errors import DataError


class PathFault(NamedTuple):
    """Why a path is refused: a stable code and a sentence."""

    code: str
    message: str


class DataFolder:
    """A folder that all paths of a data set are relative to.

    Args:
        root: the folder.
        follow_links: whether links inside it may lead out of it.
    """

    def __init__(self, root: str | os.PathLike, *, follow_links: bool = False):
        self.root = Path(root)
        self._follow_links = follow_links
        self._real_root = os.path.realpath(root)
        self._real_folders: dict[str, str] = {}  # a table names many files in few folders

    def find_fault(self, path: str) -> PathFault | None:
        """Why a normalised relative path is no part of the data; None if it is, whether or not a file is there."""
        if path.startswith(("/", "../")) or path in (".", ".."):
            return PathFault("E_PATH_OUTSIDE", "the path leads out of the data folder; paths are relative to it")
        if "\0" in path:
            return PathFault("E_PATH_INVALID", "the path holds a NUL character")
        full = os.path.join(self.root, path)
        try:
            os.lstat(full)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                return PathFault("E_PATH_INVALID", f"the path is too long: {len(os.fsencode(path))} bytes")
        if self._follow_links or self._is_inside(path):
            return None
        return PathFault(
            "E_PATH_OUTSIDE",
            f"a link leads out of the data folder, to {os.path.realpath(full)}; allow it with `data.follow_links`",
        )

    def walk(self) -> Iterator[tuple[str, PathFault | None]]:
        """All visible files below the folder in a fixed order: relative path, and why it is refused if it is.

        Links to folders are followed, each folder once.

        Raises:
            DataError: `E_PATH_OUTSIDE` for a folder behind a link that leads out, which may stand for whole classes;
                `E_DATA_UNREADABLE` for a folder that cannot be listed.
        """
        seen: set[str] = set()
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            place = os.path.realpath(os.path.join(self.root, folder))
            if place in seen:
                continue
            seen.add(place)
            folders = []
            for name, is_folder, is_link in self._entries(folder):
                path = posixpath.join(folder, name)
                fault = self.find_fault(path) if is_link else None
                if not is_folder:
                    yield path, fault
                elif fault:
                    raise DataError(fault.code, f"{os.path.join(self.root, path)}: {fault.message}")
                else:
                    folders.append(path)
            waiting += reversed(folders)

    def _entries(self, folder: str) -> list[tuple[str, bool, bool]]:
        """Name of each visible entry, whether it is a folder and whether it is a link, in the order of the names."""
        place = os.path.join(self.root, folder)
        try:
            with os.scandir(place) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            raise DataError(
                "E_DATA_UNREADABLE", f"Expected a folder that can be listed at {place}. Received: {error.strerror}"
            ) from error
        # `os.path.isdir` is False for a link to itself, where the entry's own `is_dir` raises.
        return sorted(
            (entry.name, os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir(), entry.is_symlink())
            for entry in visible
        )

    def _is_inside(self, path: str) -> bool:
        folder, name = posixpath.split(path)
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(os.path.join(self.root, folder))
        real = os.path.join(self._real_folders[folder], name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        return real == self._real_root or real.startswith(os.path.join(self._real_root, ""))
