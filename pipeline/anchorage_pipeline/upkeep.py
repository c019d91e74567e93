"""Remove damaged artifacts: TFX ignores a cache entry whose folder is missing, and runs the node again."""

import json
import shutil
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from anchorage.errors import DataError, UsageError
from anchorage.release import open_release
from anchorage.release.manifest import read_manifest
from anchorage.storage import delete_tree, is_remote, join, list_files, read_bytes

_DAMAGED = {
    "E_COUNTS_DAMAGED",
    "E_RECORD_INVALID",
    "E_SHARD_DAMAGED",
    "E_SHARD_TRUNCATED",
    "E_STORE_DAMAGED",
    "E_STORE_MISSING",
}


def forget_lost_releases(artifacts: str | PathLike) -> None:
    """Remove the artifact of each release that is deleted, damaged or replaced, so that a run publishes it again.

    Args:
        artifacts: path or URI of the pipeline root, with folders `<node>/<key>/<execution>`.
    """
    folder = join(artifacts, "PublishRelease/release")
    if is_remote(folder):
        for name in list_files(folder):
            if name.endswith("/release.json") and not _is_published(json.loads(read_bytes(join(folder, name)))):
                delete_tree(join(folder, name.partition("/")[0]))
        return
    for file in Path(folder).glob("*/release.json"):
        if not _is_published(json.loads(file.read_text(encoding="utf-8"))):
            shutil.rmtree(file.parent)


def rename_damaged_artifact(artifacts: str | PathLike, fault: DataError) -> DataError:
    """Rename the damaged artifact that an error names, so that the next run creates it again.

    Args:
        artifacts: path or URI of the pipeline root, with folders `<node>/<key>/<execution>`; those of an object store
            are left alone, since nodes read copies of them.
        fault: the error that stopped the run.

    Returns:
        The error to report; it includes advice if an artifact was renamed.
    """
    if fault.code not in _DAMAGED or is_remote(artifacts):
        return fault
    named = [
        folder
        for folder in Path(artifacts).glob("*/*/*")
        if f"{folder}/" in fault.message or f"{folder} " in fault.message
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


def _is_published(release: Mapping[str, Any]) -> bool:
    path, bundle = release["path"], release.get("bundle")
    try:
        if is_remote(path):  # the store keeps the files as they are; to check them, all releases would be copied
            return read_manifest(path)["bundle"] == bundle
        return open_release(path).manifest["bundle"] == bundle
    except (DataError, UsageError):
        return False
