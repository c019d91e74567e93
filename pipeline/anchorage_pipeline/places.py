"""Paths that a run reads and writes, and the digests that identify it."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anchorage.disk import make_folder
from anchorage.storage import delete, exists, is_remote, join, write_bytes
from anchorage_components.parameters import to_parameter
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.metadata import Metadata, choose_metadata


@dataclass(frozen=True)
class Places:
    """Paths of a run: of this machine, or inside the containers of a cluster; the first three can be URIs, too.

    Args:
        pipeline_root: folder for the artifacts of all runs of this experiment.
        releases: path or URI of the folder of published versions.
        checkpoints: folder of the checkpoints from which an interrupted training resumes.
        searches: folder of the trials from which an interrupted search resumes.
        features: folder of cached features, which later runs reuse.
        rejects: file for the rejected records, written when there are too many of them.
        metadata: store of ML Metadata; None if the platform has its own.
    """

    pipeline_root: str
    releases: str
    checkpoints: str
    searches: str
    features: str
    rejects: str
    metadata: Metadata | None = None

    def to_parameter(self, value: Any, *, ordered: bool = False) -> str:
        """Write a JSON value as the text of a parameter, as the store of ML Metadata can record it."""
        return to_parameter(value, encoded=self.metadata is not None and self.metadata.encoded, ordered=ordered)


@dataclass(frozen=True)
class Fingerprints:
    """Digests that identify a run, computed before it starts.

    Args:
        data: digest of the images and the table.
        run: digest of experiment, data and code; a release with the same digest comes from this run and cannot be its
            baseline.
        baseline: identity of the release that the candidate is compared with; it invalidates the cache when that
            release is damaged or rolled back.
    """

    data: str
    run: str
    baseline: str = ""


def make_place(folder: str) -> None:
    """Make a folder and check that files can be written to it, on this machine or in an object store.

    Raises:
        AnchorageError: those of `make_folder`, or of the object store.
    """
    if is_remote(folder):
        probe = join(folder, f".probe-{secrets.token_hex(4)}")
        write_bytes(probe, b"")
        delete(probe)
    else:
        make_folder(Path(folder))


def check_places(experiment: Experiment) -> None:
    """Look at the buckets of an experiment, writing nothing.

    Raises:
        UsageError: E_BUCKET_MISSING, E_OBJECT_CREDENTIALS, E_OBJECT_DENIED.
        ResourceError: E_OBJECT_STORE.
    """
    for folder in (experiment.artifact_folder, experiment.release_folder):
        if is_remote(folder):
            exists(folder)


def local_places(experiment: Experiment) -> Places:
    """The paths of a run on this machine."""
    base = experiment.run_folder
    if is_remote(experiment.artifact_folder):
        base = base.relative_to(Path.cwd())  # parameters of nodes: equal on all machines, which share the artifacts
    artifacts = join(experiment.artifact_folder, "artifacts")
    return Places(
        pipeline_root=artifacts,
        releases=experiment.release_folder,
        checkpoints=join(experiment.artifact_folder, "checkpoints"),
        searches=str(base / "checkpoints"),
        features=str(base / "features"),
        rejects=str((base if is_remote(artifacts) else Path(artifacts)) / "rejects.jsonl"),
        metadata=choose_metadata(experiment),
    )
