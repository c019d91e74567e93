import errno
import resource
import shutil
import sqlite3

import pytest

from anchorage.disk import check_free_space, disk_fault, disk_trouble, make_folder
from anchorage.errors import DataError, ResourceError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), "E_DISK_FULL"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "E_DISK_FULL"),
        (OSError(errno.EROFS, "Read-only file system", "/a/b"), "E_NOT_WRITABLE"),
        (RuntimeError("OSError: [Errno 28] No space left on device [while running 'Work']"), "E_DISK_FULL"),
        (RuntimeError("PermissionError: [Errno 13] Permission denied: '/a/b'"), "E_NOT_WRITABLE"),
        (RuntimeError("/a/b/variables.data-0; No space left on device"), "E_DISK_FULL"),
        (sqlite3.OperationalError("database or disk is full"), "E_DISK_FULL"),
        (RuntimeError("Error when executing query: disk I/O error query: COMMIT;"), "E_NOT_WRITABLE"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "E_NOT_WRITABLE"),
    ],
)
def test_f18_the_disk_is_recognised_below_whatever_wraps_its_error(tmp_path, error, code):
    wrapped = RuntimeError("a node failed")
    wrapped.__cause__ = error
    fault = disk_fault(wrapped, tmp_path)
    assert (fault.code, fault.exit_status) == (code, 4)


def test_other_errors_are_none_of_the_disk(tmp_path):
    assert disk_fault(KeyError("x"), tmp_path) is None
    assert disk_fault(FileNotFoundError(errno.ENOENT, "No such file", "x"), tmp_path) is None
    own = DataError("E_SPLIT_EMPTY", "Permission denied")
    assert disk_fault(own, tmp_path) is None


def test_f18_the_message_names_place_need_and_what_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10_000, 8_766, 1_234))
    with pytest.raises(
        ResourceError, match=rf"[\d,]+ bytes of free space in {tmp_path}/far/away\. Received: 1,234 bytes"
    ):
        check_free_space(tmp_path / "far/away", 5_000_000)
    with (
        pytest.raises(ResourceError, match=rf"77 bytes of free space in {tmp_path}\. Received: 1,234 bytes free"),
        disk_trouble(tmp_path, 77),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert f"free space to continue writing in {tmp_path}" in str(disk_fault(OSError(errno.EFBIG, "x"), tmp_path))


def test_f18_a_limit_on_file_size_counts_as_full(tmp_path):
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(ResourceError, match=r"E_DISK_FULL"), disk_trouble(tmp_path):
            (tmp_path / "file").write_bytes(bytes(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))


def test_f18_a_folder_that_takes_no_files_is_found_before_any_work(tmp_path):
    make_folder(tmp_path / "a/b")
    assert not list((tmp_path / "a/b").iterdir())
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(ResourceError, match=r"E_NOT_WRITABLE.*a file of this name exists"):
            make_folder(path)
