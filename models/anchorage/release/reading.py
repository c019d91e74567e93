"""Reading the folder of releases: which there are, which is current, and whether one may be opened."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from anchorage.errors import AnchorageError, DataError, UsageError
from anchorage.release import manifest as manifests

POINTER = "current"
_LONGEST = len(str(manifests.LAST_VERSION))


class ReleaseSummary(NamedTuple):
    """One line of `anchorage releases`; `fault` is "" for a release whose manifest reads well."""

    version: int
    current: bool
    created: str
    facts: dict[str, Any]
    fault: str


@dataclass(frozen=True)
class Release:
    """A release whose every file was compared with its manifest."""

    path: Path
    manifest: dict[str, Any]

    @property
    def version(self) -> int:
        return self.manifest["version"]

    @property
    def facts(self) -> dict[str, Any]:
        return self.manifest["facts"]

    @property
    def model_fingerprint(self) -> str:
        return self.manifest["model_fingerprint"]

    @property
    def content(self) -> str:
        """Identity of what search answers with: two releases with the same one differ in their reports at most."""
        entries = self.manifest["files"]
        return manifests.content(self.model_fingerprint, {name: entries[name]["sha256"] for name in entries})

    @property
    def index_folder(self) -> Path:
        return self.path / "index"

    @property
    def gallery_path(self) -> Path:
        return self.path / "gallery.parquet"

    @cached_property
    def thresholds(self) -> dict[str, Any]:
        """What `thresholds.json` says; empty if the release has none."""
        return self._read("thresholds.json")

    @cached_property
    def calibration(self) -> dict[str, Any]:
        """What `calibration.json` says of match probability and unknown queries; empty if the release has none."""
        return self._read("calibration.json")

    def _read(self, name: str) -> dict[str, Any]:
        path = self.path / name
        return json.loads(path.read_bytes()) if path.is_file() else {}


def current_version(releases: str | Path) -> int | None:
    """The version in use; None if nothing was published yet.

    Raises:
        DataError: if the pointer file holds anything but a version.
    """
    pointer = Path(releases) / POINTER
    try:
        return whole_number(pointer.read_text(encoding="ascii").strip())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(
            "E_RELEASE_DAMAGED",
            f"Expected one version number in {pointer}. Received: {error}. Choose a version with "
            f"`anchorage releases rollback --release {Path(releases)} --to VERSION`.",
        ) from error


def list_releases(releases: str | Path) -> list[ReleaseSummary]:
    """All published versions, oldest first, read from their manifests alone.

    A pointer that cannot be read leaves none of them marked as current: `current_version` says why.

    Raises:
        UsageError: if there is no folder at `releases`.
    """
    releases = Path(releases)
    if not releases.is_dir():
        raise UsageError("E_RELEASE_MISSING", f"Expected a folder of releases at {releases}. Received: no such folder.")
    try:
        current = current_version(releases)
    except DataError:
        current = None
    summaries = []
    for version in sorted(versions(releases)):
        try:
            found = manifests.read_manifest(releases / str(version))
            summaries.append(ReleaseSummary(version, version == current, found["created"], found["facts"], ""))
        except AnchorageError as error:
            summaries.append(ReleaseSummary(version, version == current, "", {}, str(error)))
    return summaries


def open_release(path: str | Path, version: int | None = None) -> Release:
    """Checks every file of a release against its manifest and gives it out for loading.

    Args:
        path: a folder of releases, or one release (wherever it was moved to).
        version: which release of the folder; None takes the current one.

    Raises:
        UsageError: `E_RELEASE_MISSING`.
        DataError: `E_RELEASE_DAMAGED` for a changed, missing or foreign file
            or a pickle; `E_RELEASE_MIXED` where model and index do not belong
            together.
    """
    path = Path(path).absolute()
    if version is None and (path / manifests.NAME).is_file():
        folder = path
    else:
        version = current_version(path) if version is None else version
        if version is None:
            raise UsageError(
                "E_RELEASE_MISSING",
                f"Expected a published release in {path}. Received: none is current there. "
                "Publish one with `anchorage run`.",
            )
        folder = path / str(version)
        if not folder.is_dir():
            raise no_such_version(path, version)
    found = manifests.read_manifest(folder)
    if version not in (None, found["version"]):
        raise DataError(
            "E_RELEASE_MIXED",
            f"Expected version {version} in {folder}. Received: the files of version {found['version']}.",
        )
    manifests.verify(folder, found)
    return Release(folder, found)


def lineage(releases: Path) -> Iterator[int]:
    """Versions from the current one back, each followed by the one that it replaced, so that none was rolled back.

    Where that cannot be read, because the pointer or a release is damaged or gone, the next lower version follows.
    """
    if not releases.is_dir():
        return
    try:
        version = current_version(releases)
    except DataError:
        version = None
    if version is None:
        version = max(versions(releases), default=None)
    seen: set[int] = set()
    while version is not None and version not in seen:
        seen.add(version)
        yield version
        try:
            version = manifests.read_manifest(releases / str(version))["facts"]["previous"]
        except AnchorageError:
            version = max((there for there in versions(releases) if there < min(seen)), default=None)


def versions(releases: Path) -> list[int]:
    """Numbers of the version folders, whole or not, in no order."""
    names = [path.name for path in releases.iterdir() if path.is_dir()]
    return [int(name) for name in names if name.isascii() and name.isdigit() and len(name) <= _LONGEST]


def no_such_version(releases: Path, version: int) -> UsageError:
    """The error for a version whose folder is not there."""
    there = versions(releases) if releases.is_dir() else []
    advice = ""
    if there:
        advice = f" Go back to an earlier one with `anchorage releases rollback --release {releases}`."
    return UsageError(
        "E_RELEASE_MISSING", f"Expected release {version} in {releases}. Received: {named(there)}.{advice}"
    )


def named(there: Sequence[int]) -> str:
    """The versions in words, for an error message."""
    return f"versions {sorted(there)}" if there else "no releases"


def whole_number(text: str) -> int:
    """`int(text)`, for plain digits only."""
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST):
        raise ValueError(f"{text[:40]!r}")
    return int(text)
