"""Rules for the files of a data folder, shared by listing, ingestion and the digest of the data.

A path belongs to the folder if it stays inside it, as written and after resolving symbolic links; with `follow_links`,
links may point outside. Hidden files (".x") are ignored.
"""

# Strings, since a data set can have millions of paths and each `Path` takes several microseconds.
# ruff: noqa: PTH112, PTH114, PTH118

import errno
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from anchorage.errors import DataError


class PathFault(NamedTuple):
    """Why a path is rejected: a stable code and a message."""

    code: str
    message: str


def is_hidden(path: str | os.PathLike) -> bool:
    """Return whether a relative path names a hidden file, or one in a hidden folder."""
    return any(part.startswith(".") for part in os.fspath(path).split("/"))


class DataFolder:
    """A folder that all paths of a data set are relative to.

    Args:
        root: the folder.
        follow_links: whether links may point outside the folder.
    """

    def __init__(self, root: str | os.PathLike, *, follow_links: bool = False):
        self.root = Path(root)
        self._follow_links = follow_links
        self._real_root = os.path.realpath(root)
        self._real_folders: dict[str, str] = {}  # cache, since tables list many files in few folders

    def find_fault(self, path: str) -> PathFault | None:
        """Return why a normalized relative path is invalid, or None; the file need not exist."""
        if path.startswith(("/", "../")) or path in (".", ".."):
            return PathFault("E_PATH_OUTSIDE", "the path points outside the data folder; paths are relative to it")
        if "\0" in path:
            return PathFault("E_PATH_INVALID", "the path contains a NUL character")
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
            f"a link points outside the data folder, to {os.path.realpath(full)}; allow it with `data.follow_links`",
        )

    def walk(self) -> Iterator[tuple[str, PathFault | None]]:
        """Yield all files except hidden ones, in a fixed order: relative path, and fault or None.

        Links to folders are followed; each folder is visited once.

        Raises:
            DataError: `E_PATH_OUTSIDE` for a link to a folder outside, which could contain whole classes;
                `E_DATA_UNREADABLE` for a folder that cannot be listed.
        """
        seen: set[str] = set()
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            real = os.path.realpath(os.path.join(self.root, folder))
            if real in seen:
                continue
            seen.add(real)
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
        """List all entries except hidden ones, sorted: name, whether it is a folder, and whether it is a link."""
        full = os.path.join(self.root, folder)
        try:
            with os.scandir(full) as entries:
                visible = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            raise DataError(
                "E_DATA_UNREADABLE", f"Expected a readable folder at {full}. Received: {error.strerror}"
            ) from error
        # For a link to itself `os.path.isdir` is False, while `entry.is_dir` raises.
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
