"""Remove damaged artifacts: TFX ignores a cache entry whose folder is missing, and runs the node again."""

import json
import shutil
from pathlib import Path

from anchorage.errors import DataError, UsageError
from anchorage.release import open_release
from anchorage.release.manifest import read_manifest
from anchorage.storage import is_remote

_DAMAGED = {
    "E_COUNTS_DAMAGED",
    "E_RECORD_INVALID",
    "E_SHARD_DAMAGED",
    "E_SHARD_TRUNCATED",
    "E_STORE_DAMAGED",
    "E_STORE_MISSING",
}


def forget_lost_releases(artifacts: Path) -> None:
    """Remove the artifact of each release that is deleted, damaged or replaced, so that a run publishes it again.

    Args:
        artifacts: the pipeline root, with folders `<node>/<key>/<execution>`.
    """
    for file in artifacts.glob("PublishRelease/release/*/release.json"):
        release = json.loads(file.read_text(encoding="utf-8"))
        if not _is_published(release["path"], release.get("bundle")):
            shutil.rmtree(file.parent)


def rename_damaged_artifact(artifacts: Path, fault: DataError) -> DataError:
    """Rename the damaged artifact that an error names, so that the next run creates it again.

    Args:
        artifacts: the pipeline root, with folders `<node>/<key>/<execution>`.
        fault: the error that stopped the run.

    Returns:
        The error to report; it includes advice if an artifact was renamed.
    """
    if fault.code not in _DAMAGED:
        return fault
    named = [
        folder for folder in artifacts.glob("*/*/*") if f"{folder}/" in fault.message or f"{folder} " in fault.message
    ]
    for folder in named:
        rename_damaged(folder)
    return with_advice(fault) if named else fault


def rename_damaged(folder: Path) -> None:
    """Rename a damaged folder to `<name>.damaged-<number>`, which nothing reads."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.damaged-{number}")).exists():
        number += 1
    folder.rename(target)


def with_advice(fault: DataError) -> DataError:
    """The error, with advice for a damaged folder that was renamed."""
    return DataError(
        fault.code, f"{fault.message.rstrip('.')}. It was renamed: run the same command again to recreate it."
    )


def _is_published(release: str, bundle: str | None) -> bool:
    try:
        if is_remote(release):  # the store keeps the files as they are; to check them, all releases would be copied
            return read_manifest(release)["bundle"] == bundle
        return open_release(release).manifest["bundle"] == bundle
    except (DataError, UsageError):
        return False
