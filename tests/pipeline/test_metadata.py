import errno
import resource
import sqlite3

import pytest

from anchorage.errors import DataError, ResourceError
from anchorage_pipeline.metadata.sqlite import SqliteMetadata


def next_execution(path):
    """Number that the next execution gets."""
    from ml_metadata.proto import metadata_store_pb2 as pb

    store = SqliteMetadata(path).open()
    kind = store.put_execution_type(pb.ExecutionType(name="node"))
    [number] = store.put_executions([pb.Execution(type_id=kind)])
    return number


def flip_pages(path):
    """Overwrite all pages after the first."""
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(byte ^ 0xFF for byte in content[4096:]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"SQLite format 3\0" + b"nonsense" * 1000),
        lambda path: path.write_text("hello, this is no database at all"),
        lambda path: path.write_bytes(path.read_bytes()[:9000]),
        flip_pages,
    ],
)
def test_a_damaged_record_is_rejected_with_the_command_that_starts_a_new_one(tmp_path, damage):
    path = tmp_path / "metadata.sqlite"
    SqliteMetadata(path).prepare(tmp_path / "artifacts")
    SqliteMetadata(path).prepare(tmp_path / "artifacts")
    assert next_execution(path) == 1
    damage(path)
    content = path.read_bytes()
    with pytest.raises(
        DataError, match=r"E_METADATA_DAMAGED: .*metadata.sqlite.*`anchorage run FILE --reset-metadata`"
    ):
        SqliteMetadata(path).prepare(tmp_path / "artifacts")
    (tmp_path / "artifacts/Trainer/model/41").mkdir(parents=True)
    (tmp_path / "artifacts/PackExamples/store/52.damaged-1").mkdir(parents=True)
    assert SqliteMetadata(path).rename().read_bytes() == content
    SqliteMetadata(path).prepare(tmp_path / "artifacts")
    assert next_execution(path) == 53
    assert (tmp_path / "artifacts/Trainer/model/41").is_dir()


def test_a_record_that_was_deleted_counts_on_from_the_artifacts_too(tmp_path):
    (tmp_path / "artifacts/Trainer/model/7").mkdir(parents=True)
    SqliteMetadata(tmp_path / "metadata.sqlite").prepare(tmp_path / "artifacts")
    assert next_execution(tmp_path / "metadata.sqlite") == 8


def test_earlier_records_that_were_set_aside_stay(tmp_path):
    path = tmp_path / "metadata.sqlite"
    assert SqliteMetadata(path).rename() is None
    for number in (1, 2):
        path.write_text(str(number))
        path.with_name("metadata.sqlite-journal").write_text("x")
        assert SqliteMetadata(path).rename().name == f"metadata.sqlite.old-{number}"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["metadata.sqlite.old-1", "metadata.sqlite.old-2"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), sqlite3.OperationalError("database or disk is full")]
)
def test_f18_a_full_disk_is_not_taken_for_a_damaged_record(tmp_path, monkeypatch, error):
    def full(self):
        raise error

    monkeypatch.setattr(SqliteMetadata, "open", full)
    with pytest.raises(ResourceError, match="E_DISK_FULL"):
        SqliteMetadata(tmp_path / "metadata.sqlite").prepare(tmp_path)


def test_f18_a_limit_on_file_size_is_not_taken_for_a_damaged_record(tmp_path):
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))  # the empty tables take more
    try:
        with pytest.raises(ResourceError, match=r"metadata.sqlite"):
            SqliteMetadata(tmp_path / "metadata.sqlite").prepare(tmp_path / "artifacts")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    SqliteMetadata(tmp_path / "metadata.sqlite").prepare(tmp_path / "artifacts")
    assert next_execution(tmp_path / "metadata.sqlite") == 1
