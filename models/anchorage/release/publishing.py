"""Publication of a new release, and rollback to an earlier one."""

import hashlib
import logging
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from anchorage.errors import AnchorageError, DataError, UsageError
from anchorage.files import copy_hashed, hash_file, write_hashed
from anchorage.release import manifest as manifests
from anchorage.release.fingerprint import fingerprint_entries, fingerprint_model
from anchorage.release.libraries import library_versions
from anchorage.release.places import Place, find_place, version_address
from anchorage.release.reading import current_version, format_versions, lineage, no_folder, open_release

_log = logging.getLogger(__name__)


def publish_release(
    releases: str | Path,
    *,
    model_folder: str | Path,
    index_folder: str | Path,
    files: Mapping[str, str | Path | bytes],
    facts: Mapping[str, Any],
) -> int:
    """Publish model and index as the next version and make it the current one.

    On a disk, all files are written to a temporary folder in the folder of
    releases, the manifest last, and the folder is renamed; a lock serializes
    concurrent publications. In an object store, the number of the version is
    claimed, and the manifest is written last; the release exists from then on.
    Of publications at once, the one with the highest number becomes current.

    If the process is killed, the current release is intact, and a later
    publication removes what is left; in an object store after a day, as the
    process may live on another machine. If it is killed when the release
    exists, running it again makes it the current one instead of publishing it
    twice.

    Args:
        releases: path or URI of a folder of releases, created if missing.
        model_folder: folder of the SavedModel; all its files are published.
        index_folder: folder of a saved index with `index.json`.
        files: additional files by their path in the release: the content, or
            a file or folder to copy. Must include `gallery.parquet`.
        facts: JSON values for the manifest, such as metrics and `run_key`;
            `previous`, the replaced version, is added.

    Returns:
        The version: a new one, greater than all earlier versions, or the one
        that this run has already published.

    Raises:
        DataError: `E_RELEASE_MIXED` if the index was not made with this
            model; `E_RELEASE_FILE` for pickles and invalid paths.
        ResourceError: `E_DISK_FULL`, `E_NOT_WRITABLE`; nothing is published.
    """
    place = find_place(releases)
    sources = _collect(Path(model_folder), Path(index_folder), files)
    if fault := manifests.name_fault(sources):
        raise DataError("E_RELEASE_FILE", f"Expected valid files for a release. Received: {fault}.")
    index_facts = manifests.read_index_facts(Path(index_folder))
    fingerprint = fingerprint_model(model_folder)
    manifests.check_pair(fingerprint, index_facts.get("model_fingerprint"), "index")
    needed = sum(len(source) if isinstance(source, bytes) else source.stat().st_size for source in sources.values())

    with place.writing(needed):
        if (version := _find_published(place, facts.get("run_key"), fingerprint, sources)) is not None:
            place.point_to(version)
            return version
        version = place.claim(lineage(place))
        with place.staging(version, needed) as folder:
            entries = _copy(sources, folder)
            manifests.check_pair(fingerprint, fingerprint_entries(folder, entries), "copy")
            head = {
                "format": manifests.FORMAT,
                "version": version,
                "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "model_fingerprint": fingerprint,
                "index": index_facts,
                "libraries": library_versions(),
                "files": entries,
            }

            def seal() -> bytes:
                previous = next((each for each in lineage(place) if each < version), None)
                return manifests.seal({**head, "facts": {**facts, "previous": previous}})

            place.add(version, folder, seal)
        place.point_to(version, forward=True)
    return version


def roll_back(releases: str | Path, version: int | None = None) -> int:
    """Make an earlier release, with its model and index, the current one.

    Args:
        releases: path or URI of a folder of releases.
        version: version of the release; None for the newest intact release
            that was current before and differs from the current one.

    Returns:
        The version that is now current.

    Raises:
        UsageError: `E_RELEASE_MISSING` if there is no such version.
        DataError: if this release, or all earlier ones, are damaged; the
            pointer is not changed.
    """
    place = find_place(releases)
    if not place.exists():
        raise no_folder(place)
    with place.writing():
        if version is None:
            version = earlier_version(place)
        else:
            open_release(place.address, version)
        place.point_to(version)
    return version


def _copy(sources: Mapping[str, Path | bytes], folder: Path) -> dict[str, dict[str, Any]]:
    """Copy the files of a release to a folder, and return what its manifest says of each."""
    entries = {}
    for name, source in sources.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        digest, size = write_hashed(source, target) if isinstance(source, bytes) else copy_hashed(source, target)
        entries[name] = {"sha256": digest, "size": size}
    return entries


def _find_published(
    place: Place, run_key: str | None, fingerprint: str, sources: Mapping[str, Path | bytes]
) -> int | None:
    """Return the version that this run has already published with the same model, index and gallery, or None."""
    candidates = sorted(place.versions(), reverse=True) if run_key else []
    content = ""
    for version in candidates:
        try:
            address = version_address(place.address, version)
            if manifests.read_manifest(address)["facts"].get("run_key") != run_key:
                continue
            content = content or manifests.content(fingerprint, _hash_search_parts(sources))
            if open_release(address).content == content:
                return version
        except (DataError, UsageError):
            continue  # damaged: publish again
    return None


def _hash_search_parts(sources: Mapping[str, Path | bytes]) -> dict[str, str]:
    parts = {name: source for name, source in sources.items() if manifests.is_search_part(name)}
    return {
        name: hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else hash_file(source)
        for name, source in parts.items()
    }


def _collect(
    model_folder: Path, index_folder: Path, files: Mapping[str, str | Path | bytes]
) -> dict[str, Path | bytes]:
    """List all files of the release by their path in it, including the files of folders."""
    sources: dict[str, Path | bytes] = {}
    for prefix, source in [("", model_folder), ("index/", index_folder), *files.items()]:
        if isinstance(source, bytes):
            added: dict[str, Path | bytes] = {prefix: source}
        elif Path(source).is_dir():
            base, head = Path(source), prefix.rstrip("/") + "/" if prefix else ""
            added = {head + p.relative_to(base).as_posix(): p for p in sorted(base.rglob("*")) if not p.is_dir()}
        elif Path(source).is_file():
            added = {prefix: Path(source)}
        else:
            raise DataError("E_RELEASE_FILE", f"Expected a file or folder at {source}. Received: no such file.")
        if repeated := sorted((set(sources) | {manifests.NAME}) & set(added)):
            raise DataError(
                "E_RELEASE_FILE",
                f"Expected one source for {repeated[0]}. Received: two, one of them from {source!r:.200}.",
            )
        sources |= added
    return sources


def earlier_version(place: Place) -> int:
    """Return the newest intact version in the lineage whose content differs from the current one.

    Raises:
        AnchorageError: if there is none.
    """
    current = current_version(place.address)
    try:
        content = open_release(place.address, current).content if current else None
    except AnchorageError:
        content = None  # damaged or deleted, so an intact copy of it is acceptable
    faults = []
    for version in lineage(place):
        if version == current:
            continue
        try:
            release = open_release(place.address, version)
        except AnchorageError as error:
            _log.warning("release %d is skipped: %s", version, error)
            faults.append(error)
            continue
        if release.content != content:
            return version
        _log.warning("release %d is skipped: it has the same model and index as release %d", version, current)
    if faults:
        raise faults[0]
    raise UsageError(
        "E_RELEASE_MISSING",
        f"Expected an earlier release to return to in {place.address}. Received: {format_versions(place.versions())}.",
    )
