"""Objects on a real server: conditions of writes, listings, and errors that say what is wrong."""

import pickle
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from anchorage import storage
from anchorage.errors import ResourceError, UsageError
from anchorage.storage import LostRaceError, MissingObjectError, objects


def test_write_read_delete(bucket):
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
        storage.write_bytes(uri, b"0", if_match='"no such"')
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


def test_listings(bucket, monkeypatch):
    for name in ("b/2", "b/c/3", "a"):
        storage.write_bytes(f"{bucket}/{name}", name.encode())
    name, key = bucket.removeprefix("s3://").split("/")
    objects.connect(bucket).put_object(Bucket=name, Key=f"{key}/b/")  # what some programs mark a folder with
    storage.write_bytes(f"{bucket}-other", b"")
    assert {name: entry.size for name, entry in storage.list_files(bucket).items()} == {"a": 1, "b/2": 3, "b/c/3": 5}
    assert storage.list_folders(bucket) == ["b"]
    assert storage.list_files(f"{bucket}/none") == {}
    monkeypatch.setattr(objects, "_KEYS", 2)  # more than one request
    storage.delete_tree(bucket)
    assert storage.list_files(bucket) == {}
    assert storage.exists(f"{bucket}-other")


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "E_OBJECT_DENIED", "permission"),
        ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "E_OBJECT_DENIED", "permission"),
        ({"AWS_PROFILE": "nobody"}, "E_OBJECT_CREDENTIALS", "nobody"),
    ],
)
def test_credentials_that_are_refused(bucket, monkeypatch, change, code, words):
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    for action in (storage.list_files, storage.find_object, storage.read_bytes, storage.delete_tree):
        with pytest.raises(UsageError, match=f"{code}.*{words}"):
            action(f"{bucket}/x")


def test_no_credentials(bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UsageError, match=r"E_OBJECT_CREDENTIALS.*AWS_ACCESS_KEY_ID"):
        storage.list_files(bucket)


def test_no_such_bucket(bucket):
    for action in (storage.list_files, storage.read_bytes, lambda uri: storage.write_bytes(uri, b"")):
        with pytest.raises(UsageError, match=r"E_BUCKET_MISSING.*s3://no-such-bucket/x"):
            action("s3://no-such-bucket/x")


def test_nobody_listens(bucket, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(ResourceError, match=r"E_OBJECT_STORE.*AWS_ENDPOINT_URL"):
            storage.list_files(bucket)


def test_a_server_that_is_silent(bucket, monkeypatch):
    """The limits of time are ours, not endless ones; shortened here."""
    monkeypatch.setattr(objects, "_READ_SECONDS", 0.1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ResourceError, match=r"E_OBJECT_STORE.*[Tt]imeout"):
            storage.list_files(bucket)


def test_a_server_that_fails(bucket, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    answer = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    def serve():
        for _ in range(2):
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(ResourceError, match=r"E_OBJECT_STORE.*503"):
            storage.list_files(bucket)
        thread.join()


def test_without_boto3(bucket, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setenv("AWS_REGION", "elsewhere")  # so that no client of before is used
    with pytest.raises(UsageError, match=r"E_EXTRA_MISSING.*--extra s3"):
        storage.list_files(bucket)


def test_errors_survive_pickling():
    for error in (MissingObjectError("s3://b/x"), LostRaceError("s3://b/x")):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
