"""Objects on real servers: conditions of writes, listings, and errors that say what is wrong."""

import pickle
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from anchorage import storage
from anchorage.errors import ResourceError, UsageError
from anchorage.storage import LostRaceError, MissingObjectError, gcs, objects, s3


def test_an_object_is_written_read_and_deleted(bucket):
    uri = f"{bucket}/a b/ü+%41"
    assert not storage.exists(uri)
    etag = storage.write_bytes(uri, b"one")
    assert storage.read_object(uri) == (b"one", etag)
    assert storage.find_object(uri)[:2] == (3, etag)
    assert storage.exists(uri)
    assert storage.exists(f"{bucket}/a b")
    assert not storage.exists(f"{bucket}/a")
    storage.delete(uri)
    storage.delete(uri)
    assert storage.find_object(uri) is None
    with pytest.raises(MissingObjectError, match=r"E_OBJECT_MISSING.*ü"):
        storage.read_bytes(uri)


def test_conditions_of_a_write(bucket):
    uri = f"{bucket}/x"
    with pytest.raises(LostRaceError, match="E_OBJECT_CHANGED"):
        storage.write_bytes(uri, b"0", if_match="1")
    first = storage.write_bytes(uri, b"1", if_absent=True)
    with pytest.raises(LostRaceError, match="E_OBJECT_CHANGED"):
        storage.write_bytes(uri, b"2", if_absent=True)
    second = storage.write_bytes(uri, b"3", if_match=first)
    with pytest.raises(LostRaceError, match="E_OBJECT_CHANGED"):
        storage.write_bytes(uri, b"4", if_match=first)
    assert storage.read_object(uri) == (b"3", second)


def test_one_of_many_writers_at_once_wins(bucket):
    def write(number):
        try:
            storage.write_bytes(f"{bucket}/claim", b"%d" % number, if_absent=True)
        except LostRaceError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        wins = list(pool.map(write, range(24)))
    assert wins.count(True) == 1
    assert storage.read_bytes(f"{bucket}/claim") == b"%d" % wins.index(True)


def test_lists_files_and_folders(bucket, monkeypatch):
    for name in ("b/2", "b/c/3", "a"):
        storage.write_bytes(f"{bucket}/{name}", name.encode())
    with objects._connected(bucket) as (store, name, key):
        store.write(name, f"{key}/b/", b"", if_absent=False, if_match=None)  # what some programs mark a folder with
    storage.write_bytes(f"{bucket}-other", b"")
    assert {name: entry.size for name, entry in storage.list_files(bucket).items()} == {"a": 1, "b/2": 3, "b/c/3": 5}
    assert storage.list_folders(bucket) == ["b"]
    assert storage.list_files(f"{bucket}/none") == {}
    monkeypatch.setattr(s3, "_KEYS", 2)  # more than one request
    storage.delete_tree(bucket)
    assert storage.list_files(bucket) == {}
    assert storage.exists(f"{bucket}-other")


def test_no_such_bucket(bucket):
    uri = f"{bucket.partition(':')[0]}://no-such-bucket/x"
    for action in (storage.list_files, storage.read_bytes, lambda uri: storage.write_bytes(uri, b"")):
        with pytest.raises(UsageError, match=f"E_BUCKET_MISSING.*{uri}"):
            action(uri)


@pytest.fixture
def impatient(bucket, monkeypatch):
    """The name of the variable for the address of the server; requests to another one are soon given up."""
    for module in (s3, gcs):
        monkeypatch.setattr(module, "READ_SECONDS", 0.1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setattr(gcs, "_RETRY_SECONDS", 0.1)
    return {"s3": "AWS_ENDPOINT_URL", "gs": "STORAGE_EMULATOR_HOST"}[bucket.partition(":")[0]]


def test_nobody_listens(bucket, monkeypatch, impatient):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv(impatient, f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(ResourceError, match=f"E_OBJECT_STORE.*{impatient}"):
            storage.list_files(bucket)


def test_a_server_that_is_silent(bucket, monkeypatch, impatient):
    """The limits of time are ours, not endless ones; shortened here."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv(impatient, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ResourceError, match=r"E_OBJECT_STORE.*[Tt]imeout"):
            storage.list_files(bucket)


def test_a_server_that_fails(bucket, monkeypatch, impatient):
    answer = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    def serve():
        with suppress(OSError):  # of `accept`, at the end
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        monkeypatch.setenv(impatient, f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(ResourceError, match=r"E_OBJECT_STORE.*503"):
            storage.list_files(bucket)
        server.shutdown(socket.SHUT_RDWR)


def test_without_the_client(bucket, monkeypatch):
    scheme = bucket.partition(":")[0]
    monkeypatch.setitem(sys.modules, {"s3": "boto3", "gs": "google.cloud.storage"}[scheme], None)
    monkeypatch.setenv("AWS_REGION", "elsewhere")  # so that no client of before is used
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "another")
    with pytest.raises(UsageError, match=f"E_EXTRA_MISSING.*--extra {scheme}"):
        storage.list_files(bucket)


def test_errors_survive_pickling():
    for error in (MissingObjectError("s3://b/x"), LostRaceError("s3://b/x")):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
