"""Interface of an object store: the few requests that the rest of this package is built on."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

PARALLEL = 16  # objects moved at once
CONNECT_SECONDS, READ_SECONDS = 5, 20  # of each of some attempts
PART = 16 << 20  # bytes of a large object in one request


class Entry(NamedTuple):
    """An object as a listing shows it.

    Args:
        size: bytes.
        etag: what changes with the content.
        changed: when it was written, in seconds since the epoch.
    """

    size: int
    etag: str
    changed: float


class Store(Protocol):
    """A client of one kind of server, for the environment in which it is made.

    All requests raise the exceptions of the client's own package inside `trouble`, after its own retries, of which a
    server that does not answer sees the last one within two minutes.

    Attributes:
        extra: extra of the pipeline that installs the client.
        variables: beginnings of the names of the variables of the environment that the client looks at.
        endpoint: address of the server.
    """

    extra: ClassVar[str]
    variables: ClassVar[tuple[str, ...]]
    endpoint: str

    def __init__(self) -> None: ...

    @staticmethod
    def trouble(uri: str) -> AbstractContextManager[None]:
        """Convert the exceptions of the client inside to errors of this project that name the address.

        Raises:
            UsageError: `E_BUCKET_MISSING`, `E_OBJECT_CREDENTIALS`, `E_OBJECT_DENIED`.
            MissingObjectError: if there is no object at the address.
            LostRaceError: if the condition of a request does not hold.
            ResourceError: `E_OBJECT_STORE` if the store cannot be reached or fails.
        """

    def head(self, bucket: str, key: str) -> Entry:
        """Return the object."""

    def list_objects(self, bucket: str, prefix: str, most: int | None = None) -> Iterator[tuple[str, Entry]]:
        """Yield the objects, or the first `most`, whose keys begin with the prefix, with their keys."""

    def list_folders(self, bucket: str, prefix: str) -> Iterator[str]:
        """Yield what the keys with this prefix have between it and the next slash, each once."""

    def read(self, bucket: str, key: str, most: int | None = None) -> tuple[bytes, str]:
        """Return content, or its first `most` bytes, and etag of an object."""

    def write(self, bucket: str, key: str, data: bytes, *, if_absent: bool, if_match: str | None) -> str:
        """Write an object, under a condition, and return its etag."""

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object, if there is one."""

    def delete_many(self, bucket: str, keys: Sequence[str]) -> None:
        """Delete objects, if they are there."""

    def fetch(self, bucket: str, key: str, entry: Entry, target: Path) -> None:
        """Copy an object to a local file, unless it is no longer that of the entry."""

    def send(self, source: Path, bucket: str, key: str) -> None:
        """Copy a local file to an object."""
