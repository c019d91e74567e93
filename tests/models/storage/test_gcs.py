"""What only Google's store can answer: refused tokens, generations that are gone, and 404 of either kind."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from anchorage import storage
from anchorage.errors import AnchorageError, UsageError
from anchorage.storage import LostRaceError, MissingObjectError, gcs
from anchorage.storage.objects import fetch_object


@pytest.fixture
def bucket(make_bucket):
    return make_bucket("gs")


@contextmanager
def answering(status, body, asked=None):
    """The address of a server that gives every request the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            if asked is not None:
                asked.append(f"{self.command} {self.path}")
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - names of the standard library

        def log_message(self, *arguments):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_client_does_nothing_in_the_background(bucket, monkeypatch):
    started = []
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread.name))
    store = gcs.GoogleStore()  # one that has seen no bucket
    name, _, folder = bucket.removeprefix("gs://").partition("/")
    store.write(name, f"{folder}/a", b"a", if_absent=False, if_match=None)
    assert store.read(name, f"{folder}/a")[0] == b"a"
    assert not started


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "E_OBJECT_CREDENTIALS"),
        (403, "E_OBJECT_DENIED"),
        (412, "E_OBJECT_CHANGED"),
        (400, "E_OBJECT_STORE"),
        (429, "E_OBJECT_STORE"),
    ],
)
def test_answers_with_an_error(bucket, monkeypatch, status, code):
    monkeypatch.setattr(gcs, "_RETRY_SECONDS", 0.1)
    body = json.dumps({"error": {"code": status, "message": "not today"}}).encode()
    with answering(status, body) as address:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        for action in (
            storage.list_files,
            storage.list_folders,
            storage.find_object,
            storage.read_bytes,
            storage.delete,
            lambda uri: storage.write_bytes(uri, b""),
        ):
            with pytest.raises(AnchorageError, match=f"{code}.*{bucket}/x") as caught:
                action(f"{bucket}/x")
            if code in ("E_OBJECT_DENIED", "E_OBJECT_STORE"):
                assert f"{status}: not today" in str(caught.value)


def test_what_a_key_file_must_be(bucket, monkeypatch, tmp_path):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    file = tmp_path / "key.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    for content in (None, "{", '{"type": "unknown"}'):
        if content is not None:
            file.write_text(content, encoding="utf-8")
        with pytest.raises(UsageError, match=r"E_OBJECT_CREDENTIALS.*key\.json.*Set GOOGLE_APPLICATION_CREDENTIALS"):
            storage.list_files(bucket)


def test_no_credentials(bucket, monkeypatch, tmp_path):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))  # without `gcloud`, which is asked for a project
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    with pytest.raises(UsageError, match=r"E_OBJECT_CREDENTIALS.*GOOGLE_APPLICATION_CREDENTIALS"):
        storage.list_files(bucket)


def test_a_key_that_is_refused(bucket, monkeypatch, tmp_path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    file = tmp_path / "key.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    asked = []
    with answering(400, b'{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}', asked) as address:
        monkeypatch.setenv("API_ENDPOINT_OVERRIDE", address)
        account = {"type": "service_account", "client_email": "a@b", "private_key": key.decode(), "project_id": "p"}
        file.write_text(json.dumps({**account, "token_uri": f"{address}/token"}), encoding="utf-8")
        with pytest.raises(UsageError, match=r"E_OBJECT_CREDENTIALS.*Invalid JWT Signature"):
            storage.list_files(bucket)
    assert set(asked) == {"POST /token"}


def test_a_generation_that_is_gone(bucket, tmp_path):
    uri = f"{bucket}/x"
    storage.write_bytes(uri, b"1")
    entry = storage.find_object(uri)
    fetch_object(uri, entry, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"1"
    storage.write_bytes(uri, b"2")
    assert storage.find_object(uri).etag != entry.etag
    with pytest.raises(LostRaceError, match=f"E_OBJECT_CHANGED.*{uri}"):
        fetch_object(uri, entry, tmp_path / "x")


def test_reads_the_first_bytes(bucket):
    storage.write_bytes(f"{bucket}/x", b"123")
    storage.write_bytes(f"{bucket}/empty", b"")
    assert storage.read_bytes(f"{bucket}/x", 2) == b"12"
    assert storage.read_bytes(f"{bucket}/x", 9) == b"123"
    etag = storage.find_object(f"{bucket}/empty").etag
    assert storage.read_object(f"{bucket}/empty", 9) == storage.read_object(f"{bucket}/empty") == (b"", etag)
    with pytest.raises(MissingObjectError):
        storage.read_bytes(f"{bucket}/none", 9)


def test_a_missing_bucket_in_every_request(bucket, tmp_path):
    missing = "gs://no-such-bucket/x"
    for action in (
        storage.exists,
        storage.find_object,
        storage.list_folders,
        storage.delete,
        lambda uri: fetch_object(uri, storage.Entry(1, "1", 0.0), tmp_path / "x"),
    ):
        with pytest.raises(UsageError, match=f"E_BUCKET_MISSING.*{missing}"):
            action(missing)


def test_a_bucket_that_was_found_is_not_looked_for_again(bucket, monkeypatch):
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "another")  # a client that has seen no bucket
    listed, honest = [], gcs.GoogleStore.list_objects

    def count(self, *arguments, **settings):
        listed.append(arguments)
        return honest(self, *arguments, **settings)

    monkeypatch.setattr(gcs.GoogleStore, "list_objects", count)
    for _ in range(3):
        assert storage.find_object(f"{bucket}/none") is None
    assert len(listed) == 1
