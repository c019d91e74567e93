"""Single objects of a store that speaks S3: read, write under a condition, list and delete."""

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from anchorage.errors import UsageError
from anchorage.extras import needs_extra
from anchorage.storage.addresses import is_object, join, split
from anchorage.storage.faults import MissingObjectError, store_trouble

PARALLEL = 16  # objects moved at once

_CONNECT_SECONDS, _READ_SECONDS = 5, 20  # of each of some five attempts
_KEYS = 1000  # per request to delete
_PART, _PARTS_AT_ONCE = 16 << 20, 4  # of one object


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


def exists(uri: str) -> bool:
    """Return whether there is an object at the URI, or a folder with one below it."""
    bucket, key = split(uri)
    client = connect(uri)
    with store_trouble(uri):
        answer = client.list_objects_v2(Bucket=bucket, Prefix=f"{key}/" if key else "", MaxKeys=1)
    return bool(answer.get("Contents")) or find_object(uri) is not None


def find_object(uri: str) -> Entry | None:
    """Return the object at the URI, or None."""
    bucket, key = split(uri)
    if not key:
        return None
    client = connect(uri)
    try:
        with store_trouble(uri):
            answer = client.head_object(Bucket=bucket, Key=key)
    except MissingObjectError:
        return None
    return Entry(answer["ContentLength"], answer["ETag"], answer["LastModified"].timestamp())


def list_files(uri: str) -> dict[str, Entry]:
    """Return the objects below a folder by their relative paths, sorted; empty if there are none."""
    bucket, key = split(uri)
    head = f"{key}/" if key else ""
    client = connect(uri)
    found = {}
    with store_trouble(uri):
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=head):
            for each in page.get("Contents", []):
                if not each["Key"].endswith("/"):  # some programs mark folders with empty objects
                    entry = Entry(each["Size"], each["ETag"], each["LastModified"].timestamp())
                    found[each["Key"][len(head) :]] = entry
    return dict(sorted(found.items()))


def list_folders(uri: str) -> list[str]:
    """Return the names of the folders directly below a folder."""
    bucket, key = split(uri)
    head = f"{key}/" if key else ""
    client = connect(uri)
    with store_trouble(uri):
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=head, Delimiter="/")
        return [each["Prefix"][len(head) : -1] for page in pages for each in page.get("CommonPrefixes", [])]


def read_object(uri: str, most: int | None = None) -> tuple[bytes, str]:
    """Return content, or its first `most` bytes, and etag of an object; `MissingObjectError` if there is none."""
    bucket, key = split(uri)
    client = connect(uri)
    with store_trouble(uri):
        answer = client.get_object(Bucket=bucket, Key=key)
        return answer["Body"].read(most), answer["ETag"]


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
    bucket, key = split(uri)
    conditions = {**({"IfNoneMatch": "*"} if if_absent else {}), **({"IfMatch": if_match} if if_match else {})}
    client = connect(uri)
    with store_trouble(uri):
        return client.put_object(Bucket=bucket, Key=key, Body=data, **conditions)["ETag"]


def delete(uri: str) -> None:
    """Delete an object, if there is one."""
    bucket, key = split(uri)
    client = connect(uri)
    with store_trouble(uri):
        client.delete_object(Bucket=bucket, Key=key)


def delete_tree(uri: str) -> None:
    """Delete all objects below a folder."""
    bucket, _ = split(uri)
    client = connect(uri)
    for keys in _batches([split(join(uri, name))[1] for name in list_files(uri)]):
        with store_trouble(uri):
            wanted = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
            client.delete_objects(Bucket=bucket, Delete=wanted)


def fetch_object(uri: str, entry: Entry, target: Path) -> None:
    """Copy an object to a local file, a large one in parts at once; `LostRaceError` if it is not that of the entry."""
    bucket, key = split(uri)
    client = connect(uri)
    with store_trouble(uri):
        if entry.size > _PART:
            client.download_file(bucket, key, str(target), Config=_transfer())
            return
        answer = client.get_object(Bucket=bucket, Key=key, IfMatch=entry.etag)
        target.write_bytes(answer["Body"].read())


def send_object(source: Path, uri: str) -> None:
    """Copy a local file to an object, a large one in parts at once."""
    bucket, key = split(uri)
    client = connect(uri)
    with store_trouble(uri):
        if source.stat().st_size > _PART:
            client.upload_file(str(source), bucket, key, Config=_transfer())
        else:
            client.put_object(Bucket=bucket, Key=key, Body=source.read_bytes())


def _transfer() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(multipart_threshold=_PART, multipart_chunksize=_PART, max_concurrency=_PARTS_AT_ONCE)


def endpoint(uri: str) -> str:
    """Return the address of the server of an object store."""
    return connect(uri).meta.endpoint_url


def _batches(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), _KEYS):
        yield keys[start : start + _KEYS]


def connect(uri: str) -> Any:
    """Return boto3's client, with the credentials and the endpoint of the environment.

    Raises:
        UsageError: `E_EXTRA_MISSING` without boto3; `E_ADDRESS` for another store than S3.
    """
    if not is_object(uri):
        raise UsageError("E_ADDRESS", f"Expected `s3://BUCKET/PATH`. Received: {uri}")
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    with needs_extra("s3", uri):
        return _client(settings, os.getpid())


@lru_cache(maxsize=4)
def _client(settings: tuple, process: int) -> Any:
    """One client for each environment and process: connections do not survive a fork."""
    import boto3
    from botocore.config import Config

    with store_trouble("s3://"):
        session = boto3.session.Session()
        shared = {
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": _READ_SECONDS,
            "max_pool_connections": PARALLEL * _PARTS_AT_ONCE,
        }
        client = session.client("s3", config=Config(**shared))
        if "amazonaws.com" in client.meta.endpoint_url:
            return client
        # Other servers rarely have a name in the DNS for each bucket.
        return session.client("s3", config=Config(**shared, s3={"addressing_style": "path"}))
