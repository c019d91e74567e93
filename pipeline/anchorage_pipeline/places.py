"""Where a run reads and writes, and the digests that identify it."""

import posixpath
from dataclasses import dataclass
from typing import Any

from anchorage_components.parameters import to_parameter
from anchorage_pipeline.config import Experiment
from anchorage_pipeline.metadata import Metadata, choose_metadata


@dataclass(frozen=True)
class Places:
    """Paths of a run; local paths, or paths inside the containers of a cluster.

    Args:
        pipeline_root: folder for the artifacts of all runs of this experiment.
        releases: path or URI of the folder of published versions.
        checkpoints: folder of the checkpoints from which an interrupted training resumes.
        features: folder of cached features, which later runs reuse.
        metadata: store of ML Metadata; None if the platform has its own.
    """

    pipeline_root: str
    releases: str
    checkpoints: str
    features: str
    metadata: Metadata | None = None

    def to_parameter(self, value: Any) -> str:
        """Write a JSON value as the text of a parameter, as the store of ML Metadata can record it."""
        return to_parameter(value, encoded=self.metadata is not None and self.metadata.encoded)

    @property
    def rejects(self) -> str:
        """File for the rejected records, written when there are too many of them."""
        return posixpath.join(self.pipeline_root, "rejects.jsonl")


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


def local_places(experiment: Experiment) -> Places:
    """The paths of a local run, all below the run folder and the release folder of the experiment."""
    base = experiment.run_folder
    return Places(
        pipeline_root=str(base / "artifacts"),
        releases=experiment.release_folder,
        checkpoints=str(base / "checkpoints"),
        features=str(base / "features"),
        metadata=choose_metadata(experiment),
    )
