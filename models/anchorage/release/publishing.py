"""Writing the folder of releases: publish the next version, or point back to an earlier one."""

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
from anchorage.release.reading import POINTER, current_version, lineage, named, open_release, versions, whole_number

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
    """Publishes model and index as the next version and makes it the current one.

    Everything is written into a hidden folder beside the releases, the manifest
    last, and renamed in one step. A process killed anywhere leaves the former
    release whole; the next publication clears its leftovers. Where the release
    itself was whole by then, the same run done again makes it the current one
    instead of publishing it twice. Two publishers take turns.

    Args:
        releases: folder of releases, made if absent.
        model_folder: SavedModel; all files in it are published.
        index_folder: folder of a saved index with `index.json`.
        files: further files by their path in the release: content, or a file
            or folder to copy. `gallery.parquet` must be among them.
        facts: JSON values kept in the manifest, such as metrics and
            `run_key`; `previous`, the version replaced, is added.

    Returns:
        The version: a new one, greater than every version there ever was, or
        the one that this very run has published already.

    Raises:
        DataError: `E_RELEASE_MIXED` if the index was not made with this
            model; `E_RELEASE_FILE` for pickles and paths out of place.
        ResourceError: `E_DISK_FULL`, `E_NOT_WRITABLE`; nothing is published.
    """
    releases = Path(releases).absolute()
    if releases.exists() and not releases.is_dir():
        raise UsageError("E_RELEASE_MISSING", f"Expected a folder of releases at {releases}. Received: a file.")
    sources = _collect(Path(model_folder), Path(index_folder), files)
    if fault := manifests.name_fault(sources):
        raise DataError("E_RELEASE_FILE", f"Expected files that a release may hold. Received: {fault}.")
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
    """Makes an earlier release the current one again, model and index together.

    Args:
        releases: folder of releases.
        version: which release; None takes the newest intact one among those
            that were current before, other than a copy of the current one.

    Returns:
        The version that is now current.

    Raises:
        UsageError: `E_RELEASE_MISSING` if there is no such version.
        DataError: if that release is damaged, or all earlier ones are; the
            pointer stays as it was.
    """
    releases = Path(releases).absolute()
    if not releases.is_dir():
        raise UsageError("E_RELEASE_MISSING", f"Expected a folder of releases at {releases}. Received: no such folder.")
    with disk_trouble(releases, 0), locked(releases):
        if version is None:
            version = _earlier_version(releases)
        else:
            open_release(releases, version)
        _point_to(releases, version)
    return version


def _publish(releases: Path, version: int, sources: Mapping[str, Path | bytes], head: dict[str, Any]) -> None:
    aside = releases / f"{TEMPORARY}{version}-{secrets.token_hex(4)}"
    try:
        aside.mkdir()
        entries = {}
        for name, source in sources.items():
            target = aside / name
            target.parent.mkdir(parents=True, exist_ok=True)
            digest, size = write_hashed(source, target) if isinstance(source, bytes) else copy_hashed(source, target)
            entries[name] = {"sha256": digest, "size": size}
        manifests.check_pair(head["model_fingerprint"], fingerprint_entries(aside, entries), "copy")
        write_hashed(manifests.seal({**head, "files": entries}), aside / manifests.NAME)
        flush_folders(aside)
        replace_file(releases / _COUNTER, f"{version}\n".encode())
        aside.rename(releases / str(version))  # from here on the release can be seen, and is whole
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    flush_folder(releases)
    _point_to(releases, version)


def _find_published(
    releases: Path, run_key: str | None, fingerprint: str, sources: Mapping[str, Path | bytes]
) -> int | None:
    """The version that this very run has published already, with the same model, index and gallery."""
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
            continue  # damaged: this run publishes anew
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
    """Every file of the release by its path in it; folders are taken apart."""
    sources: dict[str, Path | bytes] = {}
    for prefix, source in [("", model_folder), ("index/", index_folder), *files.items()]:
        if isinstance(source, bytes):
            found: dict[str, Path | bytes] = {prefix: source}
        elif Path(source).is_dir():
            base, head = Path(source), prefix.rstrip("/") + "/" if prefix else ""
            found = {head + p.relative_to(base).as_posix(): p for p in sorted(base.rglob("*")) if not p.is_dir()}
        elif Path(source).is_file():
            found = {prefix: Path(source)}
        else:
            raise DataError("E_RELEASE_FILE", f"Expected a file or folder at {source}. Received: nothing there.")
        if twice := sorted((set(sources) | {manifests.NAME}) & set(found)):
            raise DataError(
                "E_RELEASE_FILE",
                f"Expected one source for {twice[0]}. Received: two, one of them from {source!r:.200}.",
            )
        sources |= found
    return sources


def _point_to(releases: Path, version: int) -> None:
    if (releases / POINTER).is_dir():  # not ours, so kept under another name
        (releases / POINTER).rename(releases / f"{POINTER}-{secrets.token_hex(4)}")
    replace_file(releases / POINTER, f"{version}\n".encode())


def _next_version(releases: Path) -> int:
    """One more than the greatest version that is there, was there, or is pointed to."""
    try:
        last = whole_number((releases / _COUNTER).read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        last = 0  # no counter yet, or a damaged one: the folders say enough
    return max([last, *lineage(releases), *versions(releases)]) + 1


def _earlier_version(releases: Path) -> int:
    """The newest intact version that was current before the current one and is not the same release once more."""
    current = current_version(releases)
    try:
        content = open_release(releases, current).content if current else None
    except AnchorageError:
        content = None  # damaged or gone, so that an intact copy of it is what is wanted
    faults = []
    for version in lineage(releases):
        if version == current:
            continue
        try:
            found = open_release(releases, version)
        except AnchorageError as error:
            _log.warning("release %d is passed over: %s", version, error)
            faults.append(error)
            continue
        if found.content != content:
            return version
        _log.warning("release %d is passed over: it has the same model and index as release %d", version, current)
    if faults:
        raise faults[0]
    raise UsageError(
        "E_RELEASE_MISSING",
        f"Expected an earlier release to go back to in {releases}. Received: {named(versions(releases))}.",
    )
