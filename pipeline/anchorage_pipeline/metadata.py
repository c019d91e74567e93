"""Create, check and reset the ML Metadata store of an experiment, which is one SQLite file."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anchorage.disk import disk_fault
from anchorage.errors import DataError

if TYPE_CHECKING:
    from ml_metadata.metadata_store import MetadataStore

_CHANGES = slice(24, 28)  # the counter in SQLite's file header that each transaction increments
_LATEST_RUN = """
SELECT max(Context.id) FROM Context JOIN Type ON Type.id = Context.type_id WHERE Type.name = 'pipeline_run'
"""
_STATES = """
SELECT Context.name, Execution.last_known_state, Execution.create_time_since_epoch,
       Execution.last_update_time_since_epoch
FROM Association AS InRun
JOIN Execution ON Execution.id = InRun.execution_id
JOIN Association AS OfNode ON OfNode.execution_id = Execution.id
JOIN Context ON Context.id = OfNode.context_id
JOIN Type ON Type.id = Context.type_id
WHERE InRun.context_id = ? AND Type.name = 'node'
ORDER BY Execution.id
"""


class NodeState(NamedTuple):
    """State of a node in a run.

    Args:
        state: name of the last known state of its execution, such as `"RUNNING"`, `"COMPLETE"` or `"CACHED"`.
        seconds: time from the start of the execution to its last change.
    """

    state: str
    seconds: float


class RunStates(NamedTuple):
    """States of the nodes of the latest run.

    Args:
        run: id of the run's context; 0 if there is no run.
        nodes: state of each node that has started, in the order of the starts.
    """

    run: int
    nodes: dict[str, NodeState]


def read_states(path: Path) -> RunStates | None:
    """Read the states of the latest run while another connection may write; takes no lock, so no writer ever waits.

    Args:
        path: the SQLite file; it need not exist yet.

    Returns:
        The states; None if the file changed while it was read, or has no tables yet: try again later.
    """
    from ml_metadata.proto import metadata_store_pb2 as pb

    journal = path.with_name(f"{path.name}-journal")
    try:
        before = _changes(path)
        if journal.exists():  # a transaction may be writing
            return None
        # An immutable file is read without locks. What was read counts only if nothing was written meanwhile.
        with closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as connection:
            run = connection.execute(_LATEST_RUN).fetchone()[0] or 0
            rows = connection.execute(_STATES, (run,)).fetchall()
        if journal.exists() or _changes(path) != before:
            return None
    except (OSError, sqlite3.Error):
        return None
    # A context of a node is named "<pipeline>.<node>".
    return RunStates(
        run,
        {
            name.partition(".")[2]: NodeState(pb.Execution.State.Name(state or 0), (changed - created) / 1000)
            for name, state, created, changed in rows
        },
    )


def _changes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(100)[_CHANGES]


def prepare_metadata(path: Path, artifacts: Path) -> None:
    """Create the metadata store, or check the existing one.

    TFX names the folder of an artifact by the id of its execution. So the ids of a new store continue from the
    artifacts that exist; otherwise TFX would write into old folders.

    Args:
        path: the SQLite file.
        artifacts: the pipeline root, with folders `<node>/<key>/<execution>`.

    Raises:
        DataError: `E_METADATA_DAMAGED`.
        ResourceError: `E_DISK_FULL`, `E_NOT_WRITABLE`.
    """
    new = not path.exists() or not path.stat().st_size
    try:
        if not new:
            _check_pages(path)
        open_metadata(path)
        if new:
            _set_last_execution(path, _last_execution(artifacts))
    except Exception as error:  # SQLite's own errors, and ML Metadata's wrappers around them
        raise disk_fault(error, path) or _damaged(path, error) from error


def open_metadata(path: Path) -> "MetadataStore":
    """Connect to the metadata store; creates the file and its tables if needed."""
    from ml_metadata.metadata_store import MetadataStore
    from ml_metadata.proto import metadata_store_pb2 as pb

    config = pb.ConnectionConfig()
    config.sqlite.filename_uri = str(path)
    config.sqlite.connection_mode = pb.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    return MetadataStore(config)


def rename_metadata(path: Path) -> Path | None:
    """Rename the metadata store so that the next run creates a new one; returns None if there is no store."""
    if not path.exists():
        return None
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    # SQLite would replay a left-over journal into the new file.
    for suffix in ("-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return path.rename(aside)


def _check_pages(path: Path) -> None:
    with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True) as connection:
        [result] = connection.execute("PRAGMA quick_check(1)").fetchone()
    connection.close()
    if result != "ok":
        raise sqlite3.DatabaseError(result)


def _last_execution(artifacts: Path) -> int:
    names = [folder.name.partition(".")[0] for folder in artifacts.glob("*/*/*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


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
