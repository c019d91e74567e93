"""Single objects of a store: read, write under a condition, list and delete."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from anchorage.extras import needs_extra
from anchorage.storage.addresses import split
from anchorage.storage.faults import MissingObjectError
from anchorage.storage.gcs import GoogleStore
from anchorage.storage.s3 import S3Store
from anchorage.storage.stores import Entry, Store

_STORES: dict[str, type[Store]] = {"s3": S3Store, "gs": GoogleStore}  # by the scheme of a URI


def exists(uri: str) -> bool:
    """Return whether there is an object at the URI, or a folder with one below it."""
    with _connected(uri) as (store, bucket, key):
        found = list(store.list_objects(bucket, _folder(key), most=1))
    return bool(found) or find_object(uri) is not None


def find_object(uri: str) -> Entry | None:
    """Return the object at the URI, or None."""
    try:
        with _connected(uri) as (store, bucket, key):
            return store.head(bucket, key) if key else None
    except MissingObjectError:
        return None


def list_files(uri: str) -> dict[str, Entry]:
    """Return the objects below a folder by their relative paths, sorted; empty if there are none."""
    with _connected(uri) as (store, bucket, key):
        folder = _folder(key)
        found = {name[len(folder) :]: entry for name, entry in store.list_objects(bucket, folder)}
    # Some programs mark folders with empty objects.
    return {name: found[name] for name in sorted(found) if name and not name.endswith("/")}


def list_folders(uri: str) -> list[str]:
    """Return the names of the folders directly below a folder."""
    with _connected(uri) as (store, bucket, key):
        return list(store.list_folders(bucket, _folder(key)))


def read_object(uri: str, most: int | None = None) -> tuple[bytes, str]:
    """Return content, or its first `most` bytes, and etag of an object; `MissingObjectError` if there is none."""
    with _connected(uri) as (store, bucket, key):
        return store.read(bucket, key, most)


def read_bytes(uri: str, most: int | None = None) -> bytes:
    """Return the content of an object, or its first `most` bytes; `MissingObjectError` if there is none."""
    return read_object(uri, most)[0]


def write_bytes(uri: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
    """Write an object in one step, and return its etag.

    Args:
        uri: the object.
        data: its content.
        if_absent: write only if there is no object yet.
        if_match: write only over the object with this etag.

    Raises:
        LostRaceError: `E_OBJECT_CHANGED` if the condition does not hold; nothing is written.
    """
    with _connected(uri) as (store, bucket, key):
        return store.write(bucket, key, data, if_absent=if_absent, if_match=if_match)


def delete(uri: str) -> None:
    """Delete an object, if there is one."""
    with _connected(uri) as (store, bucket, key):
        store.delete(bucket, key)


def delete_tree(uri: str) -> None:
    """Delete all objects below a folder."""
    names = list(list_files(uri))
    with _connected(uri) as (store, bucket, key):
        store.delete_many(bucket, [f"{_folder(key)}{name}" for name in names])


def fetch_object(uri: str, entry: Entry, target: Path) -> None:
    """Copy an object to a local file; `LostRaceError` if it is not that of the entry."""
    with _connected(uri) as (store, bucket, key):
        store.fetch(bucket, key, entry, target)


def send_object(source: Path, uri: str) -> None:
    """Copy a local file to an object."""
    with _connected(uri) as (store, bucket, key):
        store.send(source, bucket, key)


def endpoint(uri: str) -> str:
    """Return the address of the server of an object store."""
    with _connected(uri) as (store, _, _):
        return store.endpoint


def _folder(key: str) -> str:
    """Return what the keys below a folder begin with."""
    return f"{key}/" if key else ""


@contextmanager
def _connected(uri: str) -> Iterator[tuple[Store, str, str]]:
    """Yield the store of a URI, its bucket and its key; the errors inside are those of `Store.trouble`.

    Raises:
        UsageError: `E_EXTRA_MISSING` without the client of this store; `E_ADDRESS` for a path, or for another scheme.
    """
    bucket, key = split(uri)
    kind = _STORES[uri.partition(":")[0]]
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith(kind.variables)))
    with needs_extra(kind.extra, uri), kind.trouble(uri):
        yield _open(kind, settings, os.getpid()), bucket, key


@lru_cache(maxsize=4)
def _open(kind: type[Store], settings: tuple, process: int) -> Store:
    """One client for each environment and process: connections do not survive a fork."""
    return kind()
