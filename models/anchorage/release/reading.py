"""Reading of releases: list them, find the current one, and verify and open one."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from anchorage.errors import AnchorageError, DataError, UsageError
from anchorage.release import manifest as manifests
from anchorage.release.naming import POINTER, whole_number
from anchorage.release.places import Place, find_place, version_address
from anchorage.storage import Copy, join, parent


class ReleaseSummary(NamedTuple):
    """One line of `anchorage releases`.

    Args:
        version: its number.
        current: whether it is the current one.
        created: time of its publication; "" if the manifest cannot be read.
        facts: facts of the manifest; empty if it cannot be read.
        fault: what is wrong with the manifest, or with presence and size of the files; "" if nothing is.
    """

    version: int
    current: bool
    created: str
    facts: dict[str, Any]
    fault: str


@dataclass(frozen=True)
class Release:
    """A release whose files have been verified against its manifest.

    Args:
        path: local folder with its files.
        manifest: its manifest.
        copy: what keeps `path`, if that is a copy of the release in an object store.
    """

    path: Path
    manifest: dict[str, Any]
    copy: Copy | None = field(default=None, repr=False, compare=False)

    @property
    def address(self) -> str:
        """Path or URI of the release."""
        return self.copy.uri if self.copy else str(self.path)

    @property
    def folder(self) -> str:
        """Path or URI of the folder of releases that it is in."""
        return parent(self.address)

    @property
    def name(self) -> str:
        """Name of the folder of releases that it is in."""
        return PurePosixPath(self.folder).name

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
        """Identity of what determines search results; two releases with the same one differ only in their reports."""
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
        """Content of `thresholds.json`; empty if the release has none."""
        return self._read("thresholds.json")

    @cached_property
    def calibration(self) -> dict[str, Any]:
        """Content of `calibration.json`: match probability and unknown queries; empty if the release has none."""
        return self._read("calibration.json")

    def _read(self, name: str) -> dict[str, Any]:
        path = self.path / name
        return json.loads(path.read_bytes()) if path.is_file() else {}


def current_version(releases: str | Path) -> int | None:
    """Return the current version; None if there is no release yet.

    Args:
        releases: path or URI of a folder of releases.

    Raises:
        DataError: if the pointer file does not contain a version.
        AnchorageError: if an object store cannot be read.
    """
    return _current(find_place(releases))


def _current(place: Place) -> int | None:
    try:
        content = place.read_pointer()
        return None if content is None else whole_number(content.strip())
    except (OSError, ValueError) as error:
        raise DataError(
            "E_RELEASE_DAMAGED",
            f"Expected one version number in {join(place.address, POINTER)}. Received: {error}. Choose a version with "
            f"`anchorage releases rollback --release {place.address} --to VERSION`.",
        ) from error


def list_releases(releases: str | Path) -> list[ReleaseSummary]:
    """List all versions, oldest first, from their manifests; of other files, only presence and size are verified.

    If the pointer cannot be read, no version is marked as current; `current_version` raises the reason.

    Args:
        releases: path or URI of a folder of releases.

    Raises:
        UsageError: if there is no folder at `releases`.
    """
    place = find_place(releases)
    if not place.exists():
        raise no_folder(place)
    try:
        current = _current(place)
    except DataError:
        current = None
    summaries = []
    for version in sorted(place.versions()):
        try:
            address = version_address(place.address, version)
            manifest = manifests.read_manifest(address)
            what = manifests.listing_fault(manifest["files"], place.sizes(version))
            fault = str(manifests.damaged(address, what)) if what else ""
            summaries.append(ReleaseSummary(version, version == current, manifest["created"], manifest["facts"], fault))
        except AnchorageError as error:
            summaries.append(ReleaseSummary(version, version == current, "", {}, str(error)))
    return summaries


def open_release(path: str | Path, version: int | None = None) -> Release:
    """Verify every file of a release against its manifest, and return the release.

    A release in an object store is copied to this machine first, unless it was before: see `anchorage.storage`.

    Args:
        path: path or URI of a folder of releases, or of the folder of one release.
        version: version of the release; None for the current one.

    Raises:
        UsageError: `E_RELEASE_MISSING`.
        DataError: `E_RELEASE_DAMAGED` for a changed, missing or unknown file
            or a pickle; `E_RELEASE_MIXED` if model and index do not match.
    """
    place = find_place(path)
    if version is None and place.is_release():
        address = place.address
    else:
        version = _current(place) if version is None else version
        if version is None:
            raise no_release(place)
        if version not in place.versions():
            raise no_such_version(place, version)
        address = version_address(place.address, version)
    manifest = manifests.read_manifest(address)
    if version not in (None, manifest["version"]):
        raise DataError(
            "E_RELEASE_MIXED",
            f"Expected version {version} in {address}. Received: the files of version {manifest['version']}.",
        )
    opened = place.open(address)
    if isinstance(opened, Path):
        manifests.verify(opened, manifest, address)
        return Release(opened, manifest)
    try:
        manifests.verify(opened.path, manifest, address)
    except DataError:
        opened.discard()  # the copy may be what is damaged
        raise
    return Release(opened.path, manifest, opened)


def lineage(place: Place) -> Iterator[int]:
    """Yield versions from the current one back, each followed by the one it replaced; skips those rolled back.

    If the pointer or a release is damaged or missing, the next lower version follows.
    """
    try:
        version = _current(place)
    except DataError:
        version = None
    if version is None:
        version = max(place.versions(), default=None)
    seen: set[int] = set()
    while version is not None and version not in seen:
        seen.add(version)
        yield version
        try:
            version = manifests.read_manifest(version_address(place.address, version))["facts"]["previous"]
        except (DataError, UsageError):
            version = max((lower for lower in place.versions() if lower < min(seen)), default=None)


def no_folder(place: Place) -> UsageError:
    """Return the error for a place where nothing is."""
    return UsageError(
        "E_RELEASE_MISSING", f"Expected a folder of releases at {place.address}. Received: no such folder."
    )


def no_release(place: Place) -> UsageError:
    """Return the error for a place where nothing was published."""
    return UsageError(
        "E_RELEASE_MISSING",
        f"Expected a published release in {place.address}. Received: no current release. Publish one with "
        "`anchorage run`.",
    )


def no_such_version(place: Place, version: int) -> UsageError:
    """Return the error for a version that does not exist."""
    present = place.versions()
    advice = ""
    if present:
        advice = f" Return to an earlier release with `anchorage releases rollback --release {place.address}`."
    return UsageError(
        "E_RELEASE_MISSING",
        f"Expected release {version} in {place.address}. Received: {format_versions(present)}.{advice}",
    )


def format_versions(present: Sequence[int]) -> str:
    """Format versions for an error message."""
    return f"versions {sorted(present)}" if present else "no releases"
