"""Files of the folder that all workers of a pipeline write to: on a disk, or in an object store."""

import shutil
from pathlib import Path

from anchorage import storage
from anchorage.files import replace_file


def make_folder(folder: str) -> None:
    """Make a folder on a disk; in an object store it comes with its first file."""
    if not storage.is_remote(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)


def read(path: str) -> bytes:
    """Return the content of a file."""
    return storage.read_bytes(path) if storage.is_remote(path) else Path(path).read_bytes()


def write(path: str, content: bytes) -> None:
    """Write a file that appears at once, complete, in a folder that is created if needed."""
    if storage.is_remote(path):
        storage.write_bytes(path, content)
    else:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        replace_file(Path(path), content)


def exists(path: str) -> bool:
    """Return whether there is a file."""
    return storage.find_object(path) is not None if storage.is_remote(path) else Path(path).is_file()


def remove(path: str) -> None:
    """Remove a file, if there is one."""
    storage.delete(path) if storage.is_remote(path) else Path(path).unlink(missing_ok=True)


def list_folder(folder: str) -> list[str]:
    """Return the paths of all files below a folder, relative to it and sorted; none if there is no folder."""
    if storage.is_remote(folder):
        return list(storage.list_files(folder))
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def remove_folder(folder: str) -> None:
    """Remove a folder with all files below it."""
    storage.delete_tree(folder) if storage.is_remote(folder) else shutil.rmtree(folder)
