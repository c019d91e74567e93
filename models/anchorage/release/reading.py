"""Reading of releases: list them, find the current one, and verify and open one."""

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
    """One line of `anchorage releases`; `fault` is "" if the manifest is valid."""

    version: int
    current: bool
    created: str
    facts: dict[str, Any]
    fault: str


@dataclass(frozen=True)
class Release:
    """A release whose files have been verified against its manifest."""

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

    Raises:
        DataError: if the pointer file does not contain a version.
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
    """List all versions, oldest first, from their manifests, without verifying other files.

    If the pointer cannot be read, no version is marked as current; `current_version` raises the reason.

    Raises:
        UsageError: if `releases` is not a folder.
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
            manifest = manifests.read_manifest(releases / str(version))
            summaries.append(ReleaseSummary(version, version == current, manifest["created"], manifest["facts"], ""))
        except AnchorageError as error:
            summaries.append(ReleaseSummary(version, version == current, "", {}, str(error)))
    return summaries


def open_release(path: str | Path, version: int | None = None) -> Release:
    """Verify every file of a release against its manifest, and return the release.

    Args:
        path: a folder of releases, or the folder of one release.
        version: version of the release; None for the current one.

    Raises:
        UsageError: `E_RELEASE_MISSING`.
        DataError: `E_RELEASE_DAMAGED` for a changed, missing or unknown file
            or a pickle; `E_RELEASE_MIXED` if model and index do not match.
    """
    path = Path(path).absolute()
    if version is None and (path / manifests.NAME).is_file():
        folder = path
    else:
        version = current_version(path) if version is None else version
        if version is None:
            raise UsageError(
                "E_RELEASE_MISSING",
                f"Expected a published release in {path}. Received: no current release. "
                "Publish one with `anchorage run`.",
            )
        folder = path / str(version)
        if not folder.is_dir():
            raise no_such_version(path, version)
    manifest = manifests.read_manifest(folder)
    if version not in (None, manifest["version"]):
        raise DataError(
            "E_RELEASE_MIXED",
            f"Expected version {version} in {folder}. Received: the files of version {manifest['version']}.",
        )
    manifests.verify(folder, manifest)
    return Release(folder, manifest)


def lineage(releases: Path) -> Iterator[int]:
    """Yield versions from the current one back, each followed by the one it replaced; skips those rolled back.

    If the pointer or a release is damaged or missing, the next lower version follows.
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
            version = max((lower for lower in versions(releases) if lower < min(seen)), default=None)


def versions(releases: Path) -> list[int]:
    """Return the numbers of all version folders, intact or not, unsorted."""
    names = [path.name for path in releases.iterdir() if path.is_dir()]
    return [int(name) for name in names if name.isascii() and name.isdigit() and len(name) <= _LONGEST]


def no_such_version(releases: Path, version: int) -> UsageError:
    """Return the error for a version whose folder does not exist."""
    present = versions(releases) if releases.is_dir() else []
    advice = ""
    if present:
        advice = f" Return to an earlier release with `anchorage releases rollback --release {releases}`."
    return UsageError(
        "E_RELEASE_MISSING", f"Expected release {version} in {releases}. Received: {format_versions(present)}.{advice}"
    )


def format_versions(present: Sequence[int]) -> str:
    """Format versions for an error message."""
    return f"versions {sorted(present)}" if present else "no releases"


def whole_number(text: str) -> int:
    """Convert decimal digits to an integer; raise `ValueError` for anything else."""
    if not (text.isascii() and text.isdigit() and len(text) <= _LONGEST):
        raise ValueError(f"{text[:40]!r}")
    return int(text)
