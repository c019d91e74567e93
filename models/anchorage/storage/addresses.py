"""Addresses of files: a path of this machine, or the URI of an object store."""

import fnmatch
import glob
import re
from collections.abc import Iterable, Sequence
from os import PathLike, fspath
from pathlib import PurePosixPath

from anchorage.errors import DataError, UsageError

SCHEMES = ("s3", "gs")

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # one slash: two of them become one in a `pathlib.Path`


def is_remote(uri: str | PathLike) -> bool:
    """Return whether an address is the URI of an object store; it is a path of this machine otherwise.

    Raises:
        UsageError: `E_ADDRESS` for a URI of another scheme, and for one without bucket.
    """
    text = fspath(uri)
    match = _URI.match(text)
    if match is None:
        return False
    scheme, rest = match[1], text[match.end() - 1 :]
    if scheme not in SCHEMES or not re.match(r"//[^/]", rest):
        raise UsageError("E_ADDRESS", f"Expected a path, `s3://BUCKET/PATH` or `gs://BUCKET/PATH`. Received: {text}")
    return True


def split(uri: str | PathLike) -> tuple[str, str]:
    """Return bucket and key of a URI; the key has no slash at its ends.

    Raises:
        UsageError: `E_ADDRESS`, also for a path of this machine.
    """
    if not is_remote(uri):
        raise UsageError("E_ADDRESS", f"Expected `s3://BUCKET/PATH` or `gs://BUCKET/PATH`. Received: {fspath(uri)}")
    bucket, _, key = fspath(uri).split("://", 1)[1].partition("/")
    return bucket, key.strip("/")


def join(uri: str | PathLike, *parts: str) -> str:
    """Return the address of a file or folder below another one."""
    return "/".join([fspath(uri).rstrip("/") or "/", *(part.strip("/") for part in parts)])


def parent(uri: str | PathLike) -> str:
    """Return the address of the folder that a file or folder is in."""
    return fspath(uri).rstrip("/").rpartition("/")[0] or "/"


def split_pattern(uri: str) -> tuple[str, list[str]]:
    """Return the folder above the first wildcard of a URI, and the parts of the pattern below it; none without one."""
    parts = uri.split("/")
    depth = next((place for place, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return "/".join(parts[:depth]), parts[depth:]


def matches(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether the parts of a path match those of a pattern, of which "**" stands for any number of folders."""
    if not pattern or not names:
        return not pattern and not names
    if pattern[0] == "**":
        return any(matches(names[start:], pattern[1:]) for start in range(len(names)))
    return fnmatch.fnmatchcase(names[0], pattern[0]) and matches(names[1:], pattern[1:])


def check_names(uri: str, names: Iterable[str]) -> None:
    """Check that objects below a URI can be files of a local folder by their relative paths.

    Raises:
        DataError: `E_OBJECT_NAME`, such as for `../file`, or for `a` beside `a/b`.
    """
    names = set(names)
    for name in sorted(names):
        path = PurePosixPath(name)
        inside = not path.is_absolute() and ".." not in path.parts and path.as_posix() == name and "\0" not in name
        if not inside or any(parent.as_posix() in names for parent in path.parents):
            raise DataError(
                "E_OBJECT_NAME",
                f"Expected objects below {uri} that can be files of one folder. Received: {name!r:.200}. Rename it.",
            )
