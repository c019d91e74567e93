"""Artifacts that cannot be relied on any more: with their folder gone, TFX's cache passes them over."""

import json
import shutil
from pathlib import Path

from anchorage.errors import AnchorageError, DataError
from anchorage.release import open_release

_DAMAGED = {
    "E_COUNTS_DAMAGED",
    "E_RECORD_INVALID",
    "E_SHARD_DAMAGED",
    "E_SHARD_TRUNCATED",
    "E_STORE_DAMAGED",
    "E_STORE_MISSING",
}


def forget_lost_releases(artifacts: Path) -> None:
    """Drop the record of each release that is deleted, damaged or replaced by another, so that a run publishes again.

    Args:
        artifacts: the pipeline's root, with folders `<node>/<key>/<execution>`.
    """
    for record in artifacts.glob("PublishRelease/release/*/release.json"):
        told = json.loads(record.read_text(encoding="utf-8"))
        if not _is_published(Path(told["path"]), told.get("bundle")):
            shutil.rmtree(record.parent)


def set_aside(artifacts: Path, fault: DataError) -> DataError:
    """Rename the artifact that a fault names, if it is one that a run made and can make again.

    Args:
        artifacts: folder with the artifacts, at any depth.
        fault: what stopped the run.

    Returns:
        The fault to tell; with what to do, if an artifact was set aside.
    """
    if fault.code not in _DAMAGED:
        return fault
    named = [
        folder for folder in artifacts.glob("*/*/*") if f"{folder}/" in fault.message or f"{folder} " in fault.message
    ]
    for folder in named:
        rename_aside(folder)
    return with_advice(fault) if named else fault


def rename_aside(folder: Path) -> None:
    """Rename a damaged folder to a name that nothing reads."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.damaged-{number}")).exists():
        number += 1
    folder.rename(aside)


def with_advice(fault: DataError) -> DataError:
    """The fault with what to do after the damaged folder was set aside."""
    return DataError(
        fault.code, f"{fault.message.rstrip('.')}. It was set aside: run the same command again, which makes it anew."
    )


def _is_published(release: Path, bundle: str | None) -> bool:
    try:
        return open_release(release).manifest["bundle"] == bundle
    except AnchorageError:
        return False
