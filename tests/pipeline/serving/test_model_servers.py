"""Embedding on a model server: faults of a stand-in, and of our own server in a second process."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from exported import picture, publish_two
from services import running

from anchorage.errors import DataError, ResourceError, UsageError
from anchorage.release import open_release
from anchorage.serving.embedders import LocalEmbedder
from anchorage_pipeline.serving import model_servers
from anchorage_pipeline.serving.calls import LateError, UnreachableError
from anchorage_pipeline.serving.model_servers import RemoteEmbedder, ServerSettings, connect_server

IMAGES = [picture(seed, kind) for seed, kind in ((1, "PNG"), (2, "JPEG"), (3, "GIF"))]
QUICK = ServerSettings(call_seconds=1.5, tries=3, pause_seconds=0.05, failures=2, refuse_seconds=0.2)


@pytest.fixture(scope="module")
def releases(tmp_path_factory):
    """A folder of two releases, with the encoders of seeds 0 and 1."""
    return publish_two(tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def swapped(tmp_path_factory):
    """The same encoders, published the other way round."""
    return publish_two(tmp_path_factory.mktemp("swapped"), (1, 0))


@pytest.fixture(scope="module")
def release(releases):
    return open_release(releases)


@pytest.fixture(scope="module")
def local(release):
    return LocalEmbedder(release)


class StandIn:
    """Answers with the model of an embedder, after the faults in `faults`; counts its calls."""

    def __init__(self, embedder, faults=()):
        self.embedder, self.faults, self.sizes, self.losses = embedder, list(faults), [], 0

    def __call__(self, name, records, seconds):
        assert name == "images"
        assert 0 < seconds <= 1.5
        self.sizes.append(len(records))
        if self.faults and (fault := self.faults.pop(0)) is not None:
            raise fault
        embeddings = self.embedder.embed(records)
        return {"embeddings": embeddings, "valid": np.ones(len(records), bool)}


@pytest.fixture
def remote(release, local):
    """Makes an embedder on a stand-in; `pauses` are the pauses that it made."""

    def make(*faults, embedder=local, settings=QUICK):
        pauses = []
        remote = RemoteEmbedder(StandIn(embedder, faults), release, "server", settings, sleep=pauses.append)
        remote.pauses = pauses
        return remote

    return make


def test_embeddings_are_those_of_the_local_model(remote, local):
    embedder = remote()
    np.testing.assert_array_equal(embedder.embed(IMAGES), local.embed(IMAGES))
    assert embedder.embed([]).shape == (0, local.dimension)
    assert (embedder.dimension, embedder.input_dimension) == (local.dimension, 0)
    assert (embedder.fingerprint, embedder.takes_vectors) == (local.fingerprint, False)


def test_calls_are_bounded_in_number_and_in_bytes(remote, monkeypatch):
    monkeypatch.setattr(model_servers, "_RECORDS", 3)
    embedder = remote()
    embedder.verify()
    embedder.embed(IMAGES * 3 + IMAGES[:1])
    assert embedder._transport.sizes[1:] == [3, 3, 3, 1]
    monkeypatch.setattr(model_servers, "_BYTES", len(IMAGES[0]) + len(IMAGES[1]))
    embedder.embed(IMAGES)
    assert embedder._transport.sizes[5:] == [2, 1]


def test_a_server_out_of_reach_is_tried_again_with_longer_pauses(remote, local):
    embedder = remote(None, UnreachableError("refused"), UnreachableError("refused"))
    np.testing.assert_array_equal(embedder.embed(IMAGES), local.embed(IMAGES))
    first, second = embedder.pauses
    assert 0.025 <= first <= 0.075
    assert 0.05 <= second <= 0.15
    assert not embedder.breaker.open


@pytest.mark.parametrize("fault", [LateError(), ResourceError("E_MODEL_SERVER", "INVALID_ARGUMENT")])
def test_other_errors_are_not_tried_again(remote, fault):
    embedder = remote(None, fault)
    with pytest.raises(ResourceError, match="E_MODEL_SERVER"):
        embedder.embed(IMAGES)
    assert (embedder.pauses, len(embedder._transport.sizes)) == ([], 2)


def test_failures_in_a_row_open_the_circuit(remote):
    settings = dataclasses.replace(QUICK, refuse_seconds=60.0)  # still refused on a busy machine
    embedder = remote(None, *[UnreachableError("refused")] * 6, settings=settings)
    for _ in range(2):
        with pytest.raises(ResourceError, match=r"E_MODEL_SERVER: .* cannot be reached in 3 tries: refused"):
            embedder.embed(IMAGES)
    calls = len(embedder._transport.sizes)
    with pytest.raises(ResourceError, match="2 failures in a row"):
        embedder.embed(IMAGES)
    assert len(embedder._transport.sizes) == calls


def test_the_model_is_compared_again_after_a_failure(remote, releases):
    embedder = remote(None, None, LateError())
    embedder.embed(IMAGES)
    with pytest.raises(ResourceError):
        embedder.embed(IMAGES)
    embedder._transport.embedder = LocalEmbedder(open_release(releases, 1))  # what restarts has another model
    with pytest.raises(ResourceError, match=r"E_MODEL_SERVER: .*model of release 2 .*differ from those of the release"):
        embedder.embed(IMAGES)


class Exchanged(StandIn):
    """A server that another one replaces, with a fault before its first answer."""

    def __init__(self, embedder, other, fault):
        super().__init__(embedder)
        self.other, self.fault, self.exchange_at = other, fault, None

    def __call__(self, name, records, seconds):
        if len(self.sizes) + 1 == self.exchange_at:
            self.sizes.append(0)
            self.embedder = self.other
            if self.fault is not None:
                raise self.fault
            self.losses += 1
        return super().__call__(name, records, seconds)


@pytest.mark.parametrize("fault", [UnreachableError("refused"), None], ids=["while a call is tried", "between calls"])
def test_a_server_that_is_exchanged_without_a_failed_call_is_noticed(release, releases, local, fault):
    server = Exchanged(local, LocalEmbedder(open_release(releases, 1)), fault)
    embedder = RemoteEmbedder(server, release, "server", QUICK, sleep=lambda seconds: None)
    np.testing.assert_array_equal(embedder.embed(IMAGES), local.embed(IMAGES))
    server.exchange_at = len(server.sizes) + 1
    with pytest.raises(ResourceError, match=r"E_MODEL_SERVER: .*model of release 2 .*differ from those of the release"):
        embedder.embed(IMAGES)
    server.embedder = local
    np.testing.assert_array_equal(embedder.embed(IMAGES), local.embed(IMAGES))


def test_the_model_is_compared_again_after_some_time(remote, local, releases):
    """Behind one address may be several servers, of which one is exchanged."""
    embedder = remote(settings=dataclasses.replace(QUICK, verify_seconds=60))
    embedder.embed(IMAGES)
    embedder.embed(IMAGES)
    assert embedder._transport.sizes == [4, 3, 3]
    embedder = remote(settings=dataclasses.replace(QUICK, verify_seconds=0))
    embedder.verify()
    embedder._transport.embedder = LocalEmbedder(open_release(releases, 1))
    with pytest.raises(ResourceError, match="differ from those of the release"):
        embedder.embed(IMAGES)


def test_embeddings_of_another_dimension_or_number_are_refused(remote, local):
    class Other:
        def embed(self, records):
            return local.embed(records)[:, :3]

    with pytest.raises(DataError, match=r"E_RELEASE_MIXED: .* shape \(4, 3\)"):
        remote(embedder=Other()).verify()

    class Fewer:
        def embed(self, records):
            return local.embed(records)[1:]

    with pytest.raises(ResourceError, match=r"E_MODEL_SERVER: Expected 4 float32 embeddings .* shape \(3, 5\)"):
        remote(embedder=Fewer()).verify()


@pytest.mark.parametrize("valid", [np.ones((4, 1), bool), np.ones(4, np.float32), np.ones(3, bool)])
def test_valid_of_another_kind_is_an_error_of_the_server(release, local, valid):
    class Other(StandIn):
        def __call__(self, name, records, seconds):
            return {**super().__call__(name, records, seconds), "valid": valid}

    with pytest.raises(ResourceError, match="Expected 4 bool as `valid`"):
        RemoteEmbedder(Other(local), release, "server", QUICK).verify()


@pytest.mark.parametrize("address", ["", "tensorflow", "tensorflow:host", "torch:host:80", "triton:host:port"])
def test_rejects_malformed_addresses(release, address):
    with pytest.raises(UsageError, match=r"E_MODEL_SERVER_ADDRESS: Expected tensorflow:HOST:PORT"):
        connect_server(address, release)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


PROGRAM = """
import sys
from pathlib import Path
from anchorage_pipeline.serving.server import serve
from anchorage_pipeline.serving.settings import ServeSettings
settings = ServeSettings(Path(sys.argv[1]), http_port=0, grpc_port=int(sys.argv[2]))
serve(settings, lambda service, http, grpc: print("ready", grpc, flush=True))
"""


@contextmanager
def server(releases, port):
    """`anchorage serve` in a process of its own."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(releases), str(port)], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout.readline() == f"ready {port}\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.thorough
def test_killed_stopped_and_exchanged_servers(releases, swapped, release, local, caplog):
    port = free_port()
    address = f"tensorflow:127.0.0.1:{port}"
    with pytest.raises(ResourceError, match=r"E_MODEL_SERVER: .* cannot be reached"):
        connect_server(address, release, QUICK)
    patient = ServerSettings(call_seconds=8, tries=8, pause_seconds=0.1, failures=3, refuse_seconds=0.1)
    with server(releases, port) as process:
        embedder = connect_server(address, release, patient)
        np.testing.assert_allclose(embedder.embed(IMAGES), local.embed(IMAGES), atol=1e-5)
        with pytest.raises(ResourceError, match=r"E_MODEL_SERVER: .*NOT_FOUND.*Specific\(anchorage, 1\)"):
            connect_server(address, open_release(releases, 1), QUICK)
        hasty = connect_server(address, release, QUICK)
        process.send_signal(signal.SIGSTOP)  # it holds its connections and does not answer
        with pytest.raises(ResourceError, match=r"E_MODEL_SERVER: .* no answer in 1\.5 s"):
            hasty.embed(IMAGES)
        process.send_signal(signal.SIGCONT)
        np.testing.assert_allclose(embedder.embed(IMAGES), local.embed(IMAGES), atol=1e-5)
        store = f"sqlite:///{releases.parent}/gateway.sqlite"
        with running(releases, model_server=address, store=store) as gateway:
            answer = gateway.post("/v1/search?k=1", content=picture(4), headers={"Content-Type": "image/png"})
            assert answer.json()["results"][0]["id"] == "item 4"
            process.kill()
            process.wait()
            late = gateway.post("/v1/search", content=picture(4), headers={"Content-Type": "image/png"})
            assert (late.status_code, late.json()["code"]) == (503, "E_MODEL_SERVER")
            with server(swapped, port):  # while the gateway calls nothing
                mixed = gateway.post("/v1/search", content=picture(4), headers={"Content-Type": "image/png"})
                assert (mixed.status_code, mixed.json()["code"]) == (503, "E_MODEL_SERVER")
                assert "differ from those of the release" in caplog.text  # callers learn nothing of the server
    with pytest.raises(ResourceError, match="E_MODEL_SERVER"):
        hasty.embed(IMAGES)
    with server(swapped, port), pytest.raises(DataError, match="E_RELEASE_MIXED"):
        connect_server(address, release, patient)
    with server(releases, port):
        np.testing.assert_allclose(hasty_again(hasty), local.embed(IMAGES), atol=1e-5)


@pytest.mark.thorough
def test_a_server_that_is_exchanged_while_nothing_is_called(releases, swapped, release, local):
    port = free_port()
    with server(releases, port):
        embedder = connect_server(f"tensorflow:127.0.0.1:{port}", release, ServerSettings(verify_seconds=0))
        np.testing.assert_allclose(embedder.embed(IMAGES), local.embed(IMAGES), atol=1e-5)
    with server(swapped, port), pytest.raises(ResourceError, match="differ from those of the release"):
        embedder.embed(IMAGES)


def hasty_again(embedder, seconds=20):
    """Embed as soon as the circuit lets calls through."""
    import time

    end = time.monotonic() + seconds
    while True:
        try:
            return embedder.embed(IMAGES)
        except ResourceError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
