"""Publication of a new release, and rollback to an earlier one."""

import hashlib
import logging
import secrets
import shutil
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from anchorage.disk import check_free_space, disk_trouble
from anchorage.errors import AnchorageError, DataError, UsageError
from anchorage.files import (
    TEMPORARY,
    copy_hashed,
    flush_folder,
    flush_folders,
    hash_file,
    locked,
    remove_leftovers,
    replace_file,
    write_hashed,
)
from anchorage.release import manifest as manifests
from anchorage.release.fingerprint import fingerprint_entries, fingerprint_model
from anchorage.release.libraries import library_versions
from anchorage.release.reading import (
    POINTER,
    current_version,
    format_versions,
    lineage,
    open_release,
    versions,
    whole_number,
)

_COUNTER = ".last-version"
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

    All files are written to a temporary folder in the folder of releases, the
    manifest last, and the folder is renamed. If the process is killed, the
    current release is intact, and the next publication removes temporary
    files. If the process is killed after the rename, running it again makes
    the new release the current one instead of publishing it twice. A lock
    serializes concurrent publications.

    Args:
        releases: folder of releases, created if missing.
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
    releases = Path(releases).absolute()
    if releases.exists() and not releases.is_dir():
        raise UsageError("E_RELEASE_MISSING", f"Expected a folder of releases at {releases}. Received: a file.")
    sources = _collect(Path(model_folder), Path(index_folder), files)
    if fault := manifests.name_fault(sources):
        raise DataError("E_RELEASE_FILE", f"Expected valid files for a release. Received: {fault}.")
    index_facts = manifests.read_index_facts(Path(index_folder))
    fingerprint = fingerprint_model(model_folder)
    manifests.check_pair(fingerprint, index_facts.get("model_fingerprint"), "index")
    needed = sum(len(source) if isinstance(source, bytes) else source.stat().st_size for source in sources.values())

    with disk_trouble(releases, needed):
        releases.mkdir(parents=True, exist_ok=True)
        with locked(releases):
            remove_leftovers(releases)
            if (version := _find_published(releases, facts.get("run_key"), fingerprint, sources)) is not None:
                _point_to(releases, version)
                return version
            check_free_space(releases, needed)
            version = _next_version(releases)
            head = {
                "format": manifests.FORMAT,
                "version": version,
                "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "model_fingerprint": fingerprint,
                "index": index_facts,
                "libraries": library_versions(),
                "facts": {**facts, "previous": next(lineage(releases), None)},
            }
            _publish(releases, version, sources, head)
    return version


def roll_back(releases: str | Path, version: int | None = None) -> int:
    """Make an earlier release, with its model and index, the current one.

    Args:
        releases: folder of releases.
        version: version of the release; None for the newest intact release
            that was current before and differs from the current one.

    Returns:
        The version that is now current.

    Raises:
        UsageError: `E_RELEASE_MISSING` if there is no such version.
        DataError: if this release, or all earlier ones, are damaged; the
            pointer is not changed.
    """
    releases = Path(releases).absolute()
    if not releases.is_dir():
        raise UsageError("E_RELEASE_MISSING", f"Expected a folder of releases at {releases}. Received: no such folder.")
    with disk_trouble(releases, 0), locked(releases):
        if version is None:
            version = earlier_version(releases)
        else:
            open_release(releases, version)
        _point_to(releases, version)
    return version


def _publish(releases: Path, version: int, sources: Mapping[str, Path | bytes], head: dict[str, Any]) -> None:
    temporary = releases / f"{TEMPORARY}{version}-{secrets.token_hex(4)}"
    try:
        temporary.mkdir()
        entries = {}
        for name, source in sources.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            digest, size = write_hashed(source, target) if isinstance(source, bytes) else copy_hashed(source, target)
            entries[name] = {"sha256": digest, "size": size}
        manifests.check_pair(head["model_fingerprint"], fingerprint_entries(temporary, entries), "copy")
        write_hashed(manifests.seal({**head, "files": entries}), temporary / manifests.NAME)
        flush_folders(temporary)
        replace_file(releases / _COUNTER, f"{version}\n".encode())
        temporary.rename(releases / str(version))  # from here on the release is visible, and complete
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush_folder(releases)
    _point_to(releases, version)


def _find_published(
    releases: Path, run_key: str | None, fingerprint: str, sources: Mapping[str, Path | bytes]
) -> int | None:
    """Return the version that this run has already published with the same model, index and gallery, or None."""
    candidates = sorted(versions(releases), reverse=True) if run_key else []
    content = ""
    for version in candidates:
        try:
            if manifests.read_manifest(releases / str(version))["facts"].get("run_key") != run_key:
                continue
            content = content or manifests.content(fingerprint, _hash_search_parts(sources))
            if open_release(releases, version).content == content:
                return version
        except AnchorageError:
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


def _point_to(releases: Path, version: int) -> None:
    if (releases / POINTER).is_dir():  # not written by this package, so rename it
        (releases / POINTER).rename(releases / f"{POINTER}-{secrets.token_hex(4)}")
    replace_file(releases / POINTER, f"{version}\n".encode())


def _next_version(releases: Path) -> int:
    """Return one more than the greatest version that exists, existed, or is current."""
    try:
        last = whole_number((releases / _COUNTER).read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        last = 0  # no counter or a damaged one: use the folders
    return max([last, *lineage(releases), *versions(releases)]) + 1


def earlier_version(releases: Path) -> int:
    """Return the newest intact version in the lineage whose content differs from the current one.

    Raises:
        AnchorageError: if there is none.
    """
    current = current_version(releases)
    try:
        content = open_release(releases, current).content if current else None
    except AnchorageError:
        content = None  # damaged or deleted, so an intact copy of it is acceptable
    faults = []
    for version in lineage(releases):
        if version == current:
            continue
        try:
            release = open_release(releases, version)
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
        f"Expected an earlier release to return to in {releases}. Received: {format_versions(versions(releases))}.",
    )
