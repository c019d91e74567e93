"""ML Metadata in one SQLite file, in the run folder of an experiment."""

import sqlite3
from contextlib import closing
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from anchorage.disk import disk_fault
from anchorage.errors import DataError
from anchorage_pipeline.metadata.artifacts import last_execution
from anchorage_pipeline.metadata.states import NodeState

if TYPE_CHECKING:
    from ml_metadata.metadata_store import MetadataStore
    from ml_metadata.proto import metadata_store_pb2 as pb

_CHANGES = slice(24, 28)  # the counter in SQLite's file header that each transaction increments
_STATES = """
SELECT Context.name, Execution.last_known_state, Execution.create_time_since_epoch,
       Execution.last_update_time_since_epoch
FROM Context AS Run
JOIN Type AS RunType ON RunType.id = Run.type_id
JOIN Association AS InRun ON InRun.context_id = Run.id
JOIN Execution ON Execution.id = InRun.execution_id
JOIN Association AS OfNode ON OfNode.execution_id = Execution.id
JOIN Context ON Context.id = OfNode.context_id
JOIN Type ON Type.id = Context.type_id
WHERE RunType.name = 'pipeline_run' AND Run.name = ? AND Type.name = 'node'
ORDER BY Execution.id
"""


class SqliteMetadata:
    """The store in a SQLite file.

    Args:
        path: the file; it need not exist yet.
    """

    encoded = False

    def __init__(self, path: Path):
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def config(self) -> "pb.ConnectionConfig":
        from ml_metadata.proto import metadata_store_pb2 as pb

        config = pb.ConnectionConfig()
        config.sqlite.filename_uri = str(self.path)
        config.sqlite.connection_mode = pb.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        return config

    def exists(self) -> bool:
        return self.path.is_file()

    def open(self) -> "MetadataStore":
        """Connect to the store; creates the file and its tables if needed."""
        from ml_metadata.metadata_store import MetadataStore

        return MetadataStore(self.config)

    def prepare(self, artifacts: str | PathLike) -> None:
        """Create the store, or check the existing one.

        Raises:
            DataError: `E_METADATA_DAMAGED`.
            ResourceError: `E_DISK_FULL`, `E_NOT_WRITABLE`.
        """
        new = not self.exists() or not self.path.stat().st_size
        try:
            if not new:
                _check_pages(self.path)
            self.open()
            if new:
                _set_last_execution(self.path, last_execution(artifacts))
        except Exception as error:  # SQLite's own errors, and ML Metadata's wrappers around them
            raise disk_fault(error, self.path) or _damaged(self.path, error) from error

    def read_states(self, run: str) -> dict[str, NodeState] | None:
        """Read the states of a run while another connection may write; takes no lock, so no writer ever waits.

        Args:
            run: name of the run's context.

        Returns:
            State by node, in the order of the starts; None if the file changed while it was read, or has no tables
            yet: try again later.
        """
        from ml_metadata.proto import metadata_store_pb2 as pb

        journal = self.path.with_name(f"{self.path.name}-journal")
        try:
            before = _changes(self.path)
            if journal.exists():  # a transaction may be writing
                return None
            # An immutable file is read without locks. What was read counts only if nothing was written meanwhile.
            with closing(sqlite3.connect(f"{self.path.as_uri()}?immutable=1", uri=True)) as connection:
                rows = connection.execute(_STATES, (run,)).fetchall()
            if journal.exists() or _changes(self.path) != before:
                return None
        except (OSError, sqlite3.Error):
            return None
        # A context of a node is named "<pipeline>.<node>".
        return {
            name.partition(".")[2]: NodeState(pb.Execution.State.Name(state or 0), (changed - created) / 1000)
            for name, state, created, changed in rows
        }

    def rename(self) -> Path | None:
        """Rename the file so that the next run creates a new store; returns None if there is no file."""
        if not self.path.exists():
            return None
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        # SQLite would replay a left-over journal into the new file.
        for suffix in ("-journal", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        return self.path.rename(aside)


def _changes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)[_CHANGES]


def _check_pages(path: Path) -> None:
    with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True) as connection:
        [result] = connection.execute("PRAGMA quick_check(1)").fetchone()
    connection.close()
    if result != "ok":
        raise sqlite3.DatabaseError(result)


def _set_last_execution(path: Path, last: int) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('Execution', ?)", (last,))
    connection.close()


def _damaged(path: Path, error: Exception) -> DataError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(
        "E_METADATA_DAMAGED",
        f"Expected the metadata of earlier runs in {path}. Received: a damaged file ({reason}). "
        "`anchorage run FILE --reset-metadata` renames it and starts a new one: artifacts and releases are kept, "
        "but that run uses no cache.",
    )
