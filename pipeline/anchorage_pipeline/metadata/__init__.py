"""The ML Metadata store of an experiment: a SQLite file in its run folder, or a database on a server."""

from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol

from anchorage_pipeline.metadata.states import NodeState

if TYPE_CHECKING:
    from ml_metadata.metadata_store import MetadataStore

    from anchorage_pipeline.config import Experiment


class Metadata(Protocol):
    """A store of ML Metadata; `str()` names it in messages, without a password.

    Args:
        encoded: whether texts with backslashes must be encoded.
    """

    encoded: bool

    @property
    def config(self) -> Any:
        """The connection config of ML Metadata."""

    def prepare(self, artifacts: str | PathLike) -> None:
        """Create the store, or check the existing one.

        TFX names the folder of an artifact by the id of its execution. So the ids of a new store continue from the
        artifacts that exist; otherwise TFX would write into old folders.

        Args:
            artifacts: path or URI of the pipeline root, with folders `<node>/<key>/<execution>`.

        Raises:
            AnchorageError: if the store is damaged or cannot be reached.
        """

    def exists(self) -> bool:
        """Whether there is a store to read; connects to nothing."""

    def open(self) -> "MetadataStore":
        """Connect to the store."""

    def read_states(self, run: str) -> dict[str, NodeState] | None:
        """State of each node that has started in a run, in the order of the starts; None if it cannot be read now."""


def choose_metadata(experiment: "Experiment") -> Metadata:
    """The store of an experiment."""
    from anchorage_pipeline.metadata.server import ServerMetadata
    from anchorage_pipeline.metadata.sqlite import SqliteMetadata

    if experiment.metadata:
        return ServerMetadata(experiment.metadata)
    return SqliteMetadata(experiment.run_folder / "metadata.sqlite")
