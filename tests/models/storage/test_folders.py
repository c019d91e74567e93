"""Folders on a real server: there and back, resumed, and copied once for all readers."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from anchorage import storage
from anchorage.errors import DataError, ResourceError
from anchorage.storage import LostRaceError, MissingObjectError, cache, folders, gcs, s3

CONTENT = {"a": b"1", "b/c": b"22", "b/ü x": b"", "b/d/e": bytes(range(256))}


@pytest.fixture
def folder(tmp_path):
    return _write(tmp_path / "source", CONTENT)


@pytest.fixture
def counted(monkeypatch):
    """The objects that are copied here."""
    seen = []
    fetch = folders.fetch_object
    monkeypatch.setattr(folders, "fetch_object", lambda uri, *rest: (seen.append(uri), fetch(uri, *rest)))
    return seen


def _write(folder, content):
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def _read(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_is_uploaded_and_downloaded_unchanged(bucket, folder, tmp_path):
    (folder / ".tmp-x").write_bytes(b"of a killed writer")
    storage.upload(folder, bucket)
    assert {name: entry.size for name, entry in storage.list_files(bucket).items()} == {
        name: len(data) for name, data in CONTENT.items()
    }
    assert storage.download(bucket, tmp_path / "copy") == tmp_path / "copy"
    assert _read(tmp_path / "copy") == CONTENT


def test_a_large_file_in_parts(bucket, tmp_path, monkeypatch):
    for module in (s3, gcs):
        monkeypatch.setattr(module, "PART", 5 << 20)
    data = os.urandom(11 << 20)
    storage.upload(_write(tmp_path / "source", {"large": data}), bucket)
    assert _read(storage.download(bucket, tmp_path / "copy")) == {"large": data}


def test_the_last_file_goes_last(bucket, folder, monkeypatch):
    sent = []
    monkeypatch.setattr(folders, "send_object", lambda source, uri: sent.append(uri))
    storage.upload(folder, bucket, last="a")
    assert sent[-1] == f"{bucket}/a"
    assert sorted(sent) == sorted(f"{bucket}/{name}" for name in CONTENT)


def test_nothing_follows_a_failed_upload(bucket, folder, monkeypatch):
    def send(source, uri):
        sent.append(uri)
        raise ResourceError("E_OBJECT_STORE", "gone")

    sent = []
    monkeypatch.setattr(folders, "send_object", send)
    with pytest.raises(ResourceError, match="gone"):
        storage.upload(folder, bucket, last="a")
    assert f"{bucket}/a" not in sent


def test_only_what_changed_is_copied_again(bucket, folder, tmp_path, counted):
    storage.upload(folder, bucket)
    copy = storage.download(bucket, tmp_path / "copy")
    (copy / "own").write_bytes(b"stays")
    storage.write_bytes(f"{bucket}/a", b"2")  # of the same size, and likely within the same second
    (copy / "b/c").write_bytes(b"xx")
    del counted[:]
    storage.download(bucket, copy)
    assert sorted(counted) == [f"{bucket}/a", f"{bucket}/b/c"]
    assert _read(copy) == {**CONTENT, "a": b"2", "own": b"stays"}


def test_a_failed_download_shows_complete_files_only(bucket, folder, tmp_path, monkeypatch):
    storage.upload(folder, bucket)
    fetch = folders.fetch_object

    def cut(uri, entry, target):
        if uri.endswith("d/e"):
            target.write_bytes(b"half")
            raise ResourceError("E_OBJECT_STORE", "gone")
        fetch(uri, entry, target)

    monkeypatch.setattr(folders, "fetch_object", cut)
    with pytest.raises(ResourceError, match="gone"):
        storage.download(bucket, tmp_path / "copy")
    assert _read(tmp_path / "copy").items() <= CONTENT.items()
    monkeypatch.undo()


def test_an_object_that_changes_meanwhile(bucket, folder, tmp_path, monkeypatch):
    storage.upload(folder, bucket)
    fetch = folders.fetch_object

    def overwrite(uri, *rest):
        storage.write_bytes(uri, b"!!")
        fetch(uri, *rest)

    monkeypatch.setattr(folders, "fetch_object", overwrite)
    with pytest.raises(LostRaceError, match="E_OBJECT_CHANGED"):
        storage.download(bucket, tmp_path / "copy")


def test_nothing_to_copy(bucket, tmp_path):
    for action in (lambda: storage.download(bucket, tmp_path / "copy"), lambda: storage.Copy(bucket)):
        with pytest.raises(MissingObjectError, match="E_OBJECT_MISSING"):
            action()
    assert not (tmp_path / "copy").exists()


def test_names_that_lead_out_of_the_folder(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "list_files", lambda uri: {"../x": storage.Entry(1, "e", 0.0)})
    with pytest.raises(DataError, match="E_OBJECT_NAME"):
        storage.download(bucket, tmp_path / "copy")


def test_a_download_needs_free_space(bucket, folder, tmp_path, monkeypatch):
    storage.upload(folder, bucket)
    monkeypatch.setattr("anchorage.disk._free", lambda folder: 0)
    with pytest.raises(ResourceError, match="E_DISK_FULL"):
        storage.download(bucket, tmp_path / "copy")


def test_output_is_copied_when_it_is_complete(bucket):
    with storage.local_output(bucket) as folder:
        _write(folder, CONTENT)
    assert list(storage.list_files(bucket)) == sorted(CONTENT)
    assert not folder.exists()
    with suppress(KeyError), storage.local_output(f"{bucket}/other") as folder:
        _write(folder, CONTENT)
        raise KeyError
    assert not folder.exists()
    assert not storage.exists(f"{bucket}/other")


def test_output_is_the_copy_that_is_read_unless_it_was_changed(bucket, counted):
    with storage.local_output(bucket) as folder:
        _write(folder, CONTENT)
    with storage.local_input(bucket) as path:
        assert _read(path) == CONTENT
    assert counted == []
    storage.write_bytes(f"{bucket}/stranger", b"x")
    with storage.local_output(bucket) as folder:
        _write(folder, CONTENT)
    with storage.local_input(bucket) as path:
        assert _read(path) == {**CONTENT, "stranger": b"x"}
    assert f"{bucket}/stranger" in counted


def test_local_places_are_used_as_they_are(tmp_path):
    with storage.local_output(tmp_path / "out") as folder:
        assert folder == tmp_path / "out"
        assert folder.is_dir()
    with storage.local_input(tmp_path / "in") as path:
        assert path == tmp_path / "in"


def test_input_is_copied_once_for_each_content(bucket, folder, counted):
    storage.upload(folder, bucket)
    with storage.local_input(bucket) as first, storage.local_input(bucket) as second:
        assert first == second
        assert _read(first) == CONTENT
    assert len(counted) == len(CONTENT)
    storage.write_bytes(f"{bucket}/a", b"2")
    with storage.local_input(bucket) as third:
        assert _read(third) == {**CONTENT, "a": b"2"}
    assert _read(first) == CONTENT
    assert counted[len(CONTENT) :] == [f"{bucket}/a"]


def test_what_was_damaged_is_not_taken_from_an_earlier_copy(bucket, folder):
    storage.upload(folder, bucket)
    before = storage.Copy(bucket)
    storage.write_bytes(f"{bucket}/a", b"2")
    damaged = storage.Copy(bucket)
    status = (damaged.path / "b/c").stat()
    (damaged.path / "b/c").write_bytes(b"33")
    os.utime(damaged.path / "b/c", ns=(status.st_atime_ns, status.st_mtime_ns))
    damaged.discard()
    assert _read(before.path)["b/c"] == b"33"
    with storage.local_input(bucket) as path:
        assert _read(path) == {**CONTENT, "a": b"2"}


def test_input_of_a_single_object(bucket):
    storage.write_bytes(f"{bucket}/table.csv", b"id,label\n")
    with storage.local_input(f"{bucket}/table.csv") as path:
        assert path.name == "table.csv"
        assert path.read_bytes() == b"id,label\n"


def test_several_processes_copy_once(bucket, folder):
    storage.upload(folder, bucket)
    program = (
        "import sys; from anchorage import storage\n"
        "from anchorage.storage import folders; fetch = folders.fetch_object\n"
        "folders.fetch_object = lambda uri, *rest: (sys.stdout.write(uri + chr(10)), fetch(uri, *rest))\n"
        "with storage.local_input(sys.argv[1]) as path: print(sorted(p.name for p in path.rglob('*')), file=sys.stderr)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, bucket], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    copied = "".join(process.communicate()[0] for process in processes).split("\n")
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(filter(None, copied)) == sorted(f"{bucket}/{name}" for name in CONTENT)


def test_what_a_killed_reader_copied_is_used(bucket, folder, counted, monkeypatch):
    storage.upload(folder, bucket)

    def stop(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", stop)
        with pytest.raises(KeyboardInterrupt):
            storage.Copy(bucket)
    del counted[:]
    with storage.local_input(bucket) as path:
        assert _read(path) == CONTENT
    assert counted == []


def test_unused_copies_are_removed_after_a_day(bucket, folder, monkeypatch):
    storage.upload(folder, f"{bucket}/1")
    storage.upload(folder, f"{bucket}/2")
    used, unused = storage.Copy(f"{bucket}/1"), storage.Copy(f"{bucket}/2")
    unused.close()
    two_days_ago = Path(cache.cache_folder()).stat().st_mtime - 2 * 24 * 3600
    for lock in cache.cache_folder().glob("*.lock"):
        os.utime(lock, (two_days_ago, two_days_ago))
    storage.write_bytes(f"{bucket}/3", b"")
    with storage.Copy(f"{bucket}/3"):
        assert used.path.is_dir()
        assert not unused.path.exists()
    path, _ = used.path, used.close
    del used, _  # nobody refers to it
    for lock in cache.cache_folder().glob("*.lock"):
        os.utime(lock, (two_days_ago, two_days_ago))
    cache.remove_unused(cache.cache_folder())
    assert not path.exists()
    assert list(cache.cache_folder().iterdir()) == []
