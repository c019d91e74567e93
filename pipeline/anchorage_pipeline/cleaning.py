"""Find and remove what an experiment no longer needs: old artifacts, checkpoints, cached features and releases."""

import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anchorage.disk import disk_trouble
from anchorage.errors import AnchorageError
from anchorage.files import TEMPORARY
from anchorage.progress import track
from anchorage.release import current_version, list_releases
from anchorage.release.places import find_place, version_address
from anchorage.release.publishing import earlier_version
from anchorage.release.reading import lineage
from anchorage.release.stored import find_abandoned, remove_abandoned
from anchorage.storage import Entry, delete_tree, is_remote, join, list_files, parent
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.metadata import Metadata, choose_metadata
from anchorage_pipeline.places import Places, local_places

if TYPE_CHECKING:
    from ml_metadata.metadata_store import MetadataStore
    from ml_metadata.proto import metadata_store_pb2 as pb

_DAY = 24 * 3600


class Unneeded(NamedTuple):
    """A file or folder that can be removed.

    Args:
        kind: "artifact", "checkpoint", "features", "release" or "leftover".
        path: the file or folder; a URI if it lies in an object store.
        size: bytes on the disk, or in the store.
        days: age in days.
    """

    kind: str
    path: str | Path
    size: int
    days: float


def find_unneeded(experiment: Experiment, older_than: float) -> list[Unneeded]:
    """List what can be removed; call it only while holding the run folder.

    These stay whatever their age: artifacts that the newest run of this folder used, or the newest one that ended
    (all, while there is no record of a run); the current release, and the one that a rollback returns to; damaged
    releases, which say nothing of their age.

    Args:
        experiment: the experiment, whose run folder and folder of releases are searched.
        older_than: age in days above which something can be removed.

    Returns:
        Files and folders by kind, oldest first.
    """
    places, now = local_places(experiment), time.time()
    needed = _needed_artifacts(choose_metadata(experiment), experiment.name, places.pipeline_root)
    candidates = [
        *(("features", path) for path in Path(places.features).glob("*")),
        *(("leftover", path) for path in experiment.run_folder.glob("metadata.sqlite.old-*")),
    ]
    if is_remote(places.pipeline_root):
        found = list(_stored(places, needed, now))
    else:
        found, root = [], Path(places.pipeline_root)
        candidates += [
            *(("artifact", path) for path in root.glob("*/*/[0-9]*") if needed is not None and str(path) not in needed),
            *(("artifact", path) for path in root.glob("*/.system/*/[0-9]*")),
            *(("checkpoint", path) for path in Path(places.checkpoints).glob("*")),
            *(("leftover", path) for path in root.glob(f"*/*/{TEMPORARY}*")),
        ]
    found += [Unneeded(kind, path, _size(path), (now - _changed(path)) / _DAY) for kind, path in candidates]
    found += _old_releases(experiment.release_folder, now)
    return sorted((item for item in found if item.days > older_than), key=lambda item: (item.kind, -item.days))


def remove_unneeded(experiment: Experiment, items: Sequence[Unneeded]) -> None:
    """Remove what `find_unneeded` listed; call it only while holding the run folder.

    Each folder is renamed before its files are deleted, so that a reader never meets half of one. The artifacts are
    marked as deleted in ML Metadata.

    Raises:
        ResourceError: E_NOT_WRITABLE.
    """
    _mark_deleted(choose_metadata(experiment), experiment.name, {str(item.path) for item in items})
    for item in track(items, "removing"):
        folder, name = parent(item.path), str(item.path).rpartition("/")[2]
        with disk_trouble(Path(folder)):
            if item.kind == "release":
                find_place(folder).remove(int(name))
            elif is_remote(item.path) and item.kind == "leftover":
                remove_abandoned(folder)
            elif is_remote(item.path):
                delete_tree(str(item.path))
            else:
                _remove(Path(item.path))


def _stored(places: Places, needed: set[str] | None, now: float) -> Iterator[Unneeded]:
    """Artifacts and checkpoints in an object store that no run needs, whatever their age."""
    for kind, root, depth in (("artifact", places.pipeline_root, 3), ("checkpoint", places.checkpoints, 1)):
        folders: dict[str, list[Entry]] = {}
        for name, entry in list_files(root).items():
            parts = name.split("/")
            if len(parts) > depth:
                folders.setdefault(join(root, *parts[:depth]), []).append(entry)
        for uri, entries in folders.items():
            if kind == "checkpoint" or (needed is not None and uri not in needed):
                days = (now - max(entry.changed for entry in entries)) / _DAY
                yield Unneeded(kind, uri, sum(entry.size for entry in entries), days)


def _needed_artifacts(metadata: Metadata, pipeline: str, root: str) -> set[str] | None:
    """Folders of the artifacts that the newest run in `root` used, or the newest one that ended; None without a run."""
    from ml_metadata.proto import metadata_store_pb2 as pb

    if not metadata.exists():
        return None
    store = metadata.open()
    needed: set[str] | None = None
    for executions in _runs(store, pipeline):
        used = {path for path in _artifacts(store, executions) if path.startswith(f"{root}/")}
        if not used:  # a run in another folder, of an experiment of the same name
            continue
        needed = used if needed is None else needed | used
        states = {execution.last_known_state for execution in executions}
        if states <= {pb.Execution.COMPLETE, pb.Execution.CACHED}:
            break
    return needed


def _runs(store: "MetadataStore", pipeline: str) -> "Iterator[list[pb.Execution]]":
    """The executions of each run of a pipeline, newest run first."""
    context = store.get_context_by_type_and_name("pipeline", pipeline)
    if context is None:
        return
    mine = {execution.id for execution in store.get_executions_by_context(context.id)}
    for run in sorted(store.get_contexts_by_type("pipeline_run"), key=lambda run: run.id, reverse=True):
        executions = store.get_executions_by_context(run.id)
        if executions and executions[0].id in mine:
            yield executions


def _artifacts(store: "MetadataStore", executions: "Iterable[pb.Execution]") -> list[str]:
    """Folders of the inputs and outputs of executions."""
    events = store.get_events_by_execution_ids([execution.id for execution in executions])
    return [artifact.uri for artifact in store.get_artifacts_by_id({event.artifact_id for event in events})]


def _mark_deleted(metadata: Metadata, pipeline: str, paths: set[str]) -> None:
    from ml_metadata.proto import metadata_store_pb2 as pb

    if not metadata.exists():
        return
    store = metadata.open()
    context = store.get_context_by_type_and_name("pipeline", pipeline)
    artifacts = store.get_artifacts_by_context(context.id) if context else []
    deleted = [artifact for artifact in artifacts if artifact.uri in paths]
    for artifact in deleted:
        artifact.state = pb.Artifact.DELETED
    if deleted:
        store.put_artifacts(deleted)


def _old_releases(folder: str, now: float) -> Iterator[Unneeded]:
    """Each release that is neither current nor what a rollback returns to, and in a store what was never completed."""
    place = find_place(folder)
    if not place.exists():
        return
    kept = {current_version(folder), next(lineage(place), None)}
    with suppress(AnchorageError):  # there is none to return to
        kept.add(earlier_version(place))
    for release in list_releases(folder):
        if release.version in kept or not release.created:
            continue
        days = (now - datetime.fromisoformat(release.created).timestamp()) / _DAY
        address = version_address(folder, release.version)
        if not is_remote(folder):
            yield Unneeded("release", Path(address), _size(Path(address)), days)
            continue
        yield Unneeded("release", address, sum(entry.size for entry in list_files(address).values()), days)
    for version, entries in find_abandoned(folder).items() if is_remote(folder) else ():
        size, newest = sum(entry.size for entry in entries.values()), max(entry.changed for entry in entries.values())
        yield Unneeded("leftover", version_address(folder, version), size, (now - newest) / _DAY)


def _changed(path: Path) -> float:
    """Time of the newest change below a path."""
    return max(part.lstat().st_mtime for part in (path, *path.rglob("*")))


def _size(path: Path) -> int:
    return sum(part.lstat().st_size for part in (path, *path.rglob("*")) if part.is_file())


def _remove(path: Path) -> None:
    if not path.is_dir():
        path.unlink()
        return
    aside = (
        path if path.name.startswith(TEMPORARY) else path.with_name(f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}")
    )
    path.rename(aside)
    shutil.rmtree(aside)
