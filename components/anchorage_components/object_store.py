"""TFX's file access for `s3://` and `gs://`, with which it creates, finds and removes artifacts in an object store.

TensorFlow, which TFX would ask otherwise, opens no `s3://`, and `gs://` without the server of STORAGE_EMULATOR_HOST. A
store has no folders: one exists while there is an object below it, to make one does nothing, and to remove what is not
there is no error.
"""

import io
import posixpath
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tfx.dsl.io import filesystem, filesystem_registry

from anchorage import storage

_FIRST = 0  # TensorFlow's own plugin, which claims both schemes too, has priority 10


class _Stat(NamedTuple):
    length: int
    mtime_nsec: int


class ObjectStore(filesystem.Filesystem):
    """Objects as TFX's file access reads and writes them; a file appears, complete, when it is closed."""

    SUPPORTED_SCHEMES = ["s3://", "gs://"]  # noqa: RUF012 - TFX's own name and type

    @staticmethod
    def open(name: str | bytes, mode: str = "r") -> Any:
        """Open an object to read (`r`) or to replace it (`w`), as text or, with `b`, as bytes."""
        uri = _text(name)
        if mode[0] not in "rw" or "+" in mode:
            raise NotImplementedError(f"Expected the mode r, rb, w or wb for {uri}. Received: {mode!r}")
        raw: io.BytesIO = io.BytesIO(_read(uri)) if mode[0] == "r" else _Written(uri)
        return raw if "b" in mode else io.TextIOWrapper(raw, encoding="utf-8", write_through=True)

    @staticmethod
    def copy(src: str | bytes, dst: str | bytes, overwrite: bool = False) -> None:
        """Copy an object."""
        source, target = _text(src), _text(dst)
        if not overwrite and storage.exists(target):
            raise OSError(f"Expected no object at {target}. Received: one")
        storage.write_bytes(target, _read(source))

    @staticmethod
    def exists(path: str | bytes) -> bool:
        """Whether there is an object, or a folder with one."""
        return storage.exists(_text(path))

    @staticmethod
    def glob(pattern: str | bytes) -> list[str]:
        """URIs of the objects and folders that match a pattern, whose `*` stays within one name."""
        root, wanted = storage.split_pattern(_text(pattern))
        if not wanted:
            return [root] if storage.exists(root) else []
        names = ["/".join(name.split("/")[: len(wanted)]) for name in storage.list_files(root)]
        found = [name for name in dict.fromkeys(names) if storage.matches(name.split("/"), wanted)]
        return [storage.join(root, name) for name in found]

    @staticmethod
    def isdir(path: str | bytes) -> bool:
        """Whether there is an object below the path."""
        uri = _text(path)
        return storage.exists(uri) and storage.find_object(uri) is None

    @staticmethod
    def listdir(path: str | bytes) -> list[str]:
        """Names of what is directly below a folder."""
        names = storage.list_files(_text(path))
        if not names:
            raise filesystem.NotFoundError(_text(path))
        return list(dict.fromkeys(name.partition("/")[0] for name in names))

    @staticmethod
    def makedirs(path: str | bytes) -> None:
        """Do nothing: a folder comes with its first object."""

    mkdir = makedirs

    @staticmethod
    def remove(path: str | bytes) -> None:
        """Delete an object."""
        storage.delete(_text(path))

    @staticmethod
    def rmtree(path: str | bytes) -> None:
        """Delete all objects below a folder."""
        storage.delete_tree(_text(path))

    @staticmethod
    def stat(path: str | bytes) -> _Stat:
        """Size and time of change of an object, named as TensorFlow names them."""
        entry = storage.find_object(_text(path))
        if entry is None:
            raise filesystem.NotFoundError(_text(path))
        return _Stat(entry.size, int(entry.changed * 1e9))

    @staticmethod
    def walk(
        top: str | bytes, topdown: bool = True, onerror: Callable[..., None] | None = None
    ) -> Iterator[tuple[str, list[str], list[str]]]:
        """Yield each folder with the names of its folders and objects, as `os.walk`."""
        root = _text(top).rstrip("/")
        folders: dict[str, tuple[set[str], list[str]]] = {}
        for name in storage.list_files(root):
            folder, file = posixpath.split(name)
            folders.setdefault(folder, (set(), []))[1].append(file)
            while folder:
                parent, last = posixpath.split(folder)
                folders.setdefault(parent, (set(), []))[0].add(last)
                folder = parent
        for folder in sorted(folders, reverse=not topdown):
            inside, files = folders[folder]
            yield storage.join(root, folder) if folder else root, sorted(inside), files


def register() -> None:
    """Let TFX use this class for its schemes; more calls change nothing."""
    filesystem_registry.DEFAULT_FILESYSTEM_REGISTRY.register(ObjectStore, priority=_FIRST)


class _Written(io.BytesIO):
    """Bytes that become an object when they are closed, unless a `with` block ends with an error."""

    def __init__(self, uri: str):
        super().__init__()
        self._uri = uri

    def close(self) -> None:
        if not self.closed:
            data = self.getvalue()
            super().close()
            storage.write_bytes(self._uri, data)

    def __exit__(self, kind: Any, *error: Any) -> None:
        if kind is not None:
            super().close()
        self.close()


def _text(path: str | bytes) -> str:
    return path.decode() if isinstance(path, bytes) else path


def _read(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except storage.MissingObjectError as error:
        raise filesystem.NotFoundError(uri) from error
