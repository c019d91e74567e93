"""The record of runs (ML Metadata in one SQLite file): opened, checked before a run, and started afresh."""

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from anchorage.disk import disk_fault
from anchorage.errors import DataError

if TYPE_CHECKING:
    from ml_metadata.metadata_store import MetadataStore


def prepare_metadata(path: Path, artifacts: Path) -> None:
    """Make the record, or check the one that is there.

    Executions of a new record are counted on from the artifacts that lie there already: TFX names an artifact's folder
    by the number of its execution, and would write into old ones.

    Args:
        path: the SQLite file.
        artifacts: the pipeline's root, with folders `<node>/<key>/<execution>`.

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
            _count_on(path, _last_execution(artifacts))
    except Exception as error:  # SQLite's errors and those that ML Metadata makes of them
        raise disk_fault(error, path) or _damaged(path, error) from error


def open_metadata(path: Path) -> "MetadataStore":
    """Connect to the record; its tables are made if the file is not there."""
    from ml_metadata.metadata_store import MetadataStore
    from ml_metadata.proto import metadata_store_pb2 as pb

    config = pb.ConnectionConfig()
    config.sqlite.filename_uri = str(path)
    config.sqlite.connection_mode = pb.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    return MetadataStore(config)


def set_metadata_aside(path: Path) -> Path | None:
    """Rename the record, so that the next run starts a new one; None if there is no record."""
    if not path.exists():
        return None
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    # A journal belongs to this file alone: beside a new one SQLite would play it back into that.
    for suffix in ("-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return path.rename(aside)


def _check_pages(path: Path) -> None:
    with sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True) as connection:
        [found] = connection.execute("PRAGMA quick_check(1)").fetchone()
    connection.close()
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def _last_execution(artifacts: Path) -> int:
    names = [folder.name.partition(".")[0] for folder in artifacts.glob("*/*/*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def _count_on(path: Path, last: int) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('Execution', ?)", (last,))
    connection.close()


def _damaged(path: Path, error: Exception) -> DataError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(
        "E_METADATA_DAMAGED",
        f"Expected the record of earlier runs in {path}. Received: a damaged file ({reason}). "
        "`anchorage run FILE --reset-metadata` sets it aside and starts a new one: artifacts and releases stay, "
        "but that run takes nothing from the cache.",
    )
