"""What holds for every request: headers, problems of the framework, the host, time, overload, and the metrics."""

import asyncio
import threading
import time

import pytest
from services import WITH_KEY, run_async, running

from anchorage.errors import ResourceError
from anchorage_pipeline.serving.batching import Admission, Batcher, OverloadedError
from anchorage_pipeline.serving.settings import Limits

PNG = {"Content-Type": "image/png"}


class Gate:
    """An embedder that waits until it is opened."""

    def __init__(self, embedder):
        self._embedder, self.opened, self.sizes = embedder, threading.Event(), []

    def __getattr__(self, name):
        return getattr(self._embedder, name)

    def embed(self, records):
        self.opened.wait(60)
        self.sizes.append(len(records))
        return self._embedder.embed(records)


def held(client):
    """Hold the model of a service; returns the gate."""
    batcher = client.service.releases.current.batcher
    gate = Gate(client.service.releases.current.engine.embedder)
    batcher._run = gate.embed
    return gate


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("path", ["/healthz", "/", "/nowhere", "/v1/release", "/openapi.json", "/metrics"])
def test_every_answer_has_the_security_headers(shared, path):
    headers = shared.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "server" not in headers


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/search", 404, "E_PATH_UNKNOWN"),
        ("GET", "/v1/release/", 404, "E_PATH_UNKNOWN"),
        ("DELETE", "/v1/search", 405, "E_METHOD"),
        ("BREW", "/v1/search", 405, "E_METHOD"),
        ("GET", "/v1/items?limit=0", 422, "E_REQUEST_FIELDS"),
        ("GET", "/v1/items?limit=many", 422, "E_REQUEST_FIELDS"),
        ("GET", "/docs", 404, "E_PATH_UNKNOWN"),
    ],
)
def test_errors_of_the_framework_are_problems_too(shared, method, path, status, code):
    answer = shared.request(method, path)
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
    assert problem["type"] == f"urn:anchorage:error:{code}"
    assert {"title", "detail", "instance"} <= set(problem)


def test_an_internal_error_reveals_no_details(shared, monkeypatch):
    monkeypatch.setattr(shared.service, "search", None)
    answer = shared.post("/v1/search", json={"id": "a"})
    assert (answer.status_code, answer.json()["code"]) == (500, "E_BUG")
    assert "NoneType" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


SCOPE = {"type": "http", "http_version": "1.1", "method": "POST", "path": "/v1/search", "raw_path": b"/v1/search"}
SCOPE |= {"query_string": b"", "root_path": "", "scheme": "http", "server": ("localhost", 80)}
SCOPE |= {"headers": [(b"host", b"localhost"), (b"content-type", b"image/png")]}


async def ignore(message):
    """An answer that nobody reads."""


def test_a_client_that_leaves_while_it_sends_is_no_internal_error(releases):
    messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": b"half", "more_body": True}]

    async def receive():
        return messages.pop()

    with running(releases) as client:
        client.portal.call(client.app, dict(SCOPE), receive, ignore)
        text = client.get("/metrics").text
        assert 'anchorage_requests_total{method="POST",route="/v1/search",status="499"} 1.0' in text
        assert client.service.admission.pending == 0


class SlowUpload:
    """A request whose body stops half way until it is ended."""

    def __init__(self, client, half):
        self._half, self._reached, self._ended = half, threading.Event(), asyncio.Event()
        self._portal = client.portal
        self._answer = client.portal.start_task_soon(client.app, dict(SCOPE), self._receive, ignore)
        assert self._reached.wait(60)

    async def _receive(self):
        if not self._reached.is_set():
            self._reached.set()
            return {"type": "http.request", "body": self._half, "more_body": True}
        await self._ended.wait()
        return {"type": "http.disconnect"}

    def end(self):
        self._portal.call(self._ended.set)
        self._answer.result(60)


def test_a_slow_upload_takes_no_place_of_others(published, images, tmp_path):
    with running(published, limits=Limits(pending=1), store=f"sqlite:///{tmp_path}/items.sqlite") as client:
        upload = SlowUpload(client, b"half")
        assert client.post("/v1/search", content=images[0], headers=PNG).status_code == 200
        upload.end()


def test_bodies_in_memory_have_a_bound(published, images, tmp_path):
    size = len(images[0])
    limits = Limits(held_bytes=2 * size - 1)
    with running(published, limits=limits, store=f"sqlite:///{tmp_path}/items.sqlite") as client:
        upload = SlowUpload(client, b"-" * size)
        answer = client.post("/v1/search", content=images[0], headers=PNG)
        assert (answer.status_code, answer.json()["code"]) == (429, "E_OVERLOADED")
        assert answer.headers["retry-after"] == "1"
        upload.end()
        for _ in range(3):  # each gives its bytes back
            assert client.post("/v1/search", content=images[0], headers=PNG).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/v1/release", "/v1/items/class-0%2F0.png"])
def test_head_is_answered_as_get(shared, path):
    head, get = shared.head(path), shared.get(path)
    assert (head.status_code, dict(head.headers)) == (200, dict(get.headers))


@pytest.mark.parametrize(
    ("path", "name"), [("/v1/search?filters={}", "filters"), ("/v1/search?k=3&K=5", "K"), ("/v1/search?a=1&a=2", "a")]
)
def test_an_unknown_query_parameter_is_named(shared, images, path, name):
    answer = shared.post(path, content=images[0], headers=PNG)
    assert (answer.status_code, answer.json()["code"]) == (422, "E_REQUEST_FIELDS")
    assert [fault["at"] for fault in answer.json()["faults"]] == [f"query.{name}"]
    assert "filter, k, min_score, release" in answer.json()["detail"]


def test_errors_of_the_database_name_no_place(releases, monkeypatch, caplog):
    secret = "Expected postgresql://someone@somewhere/items. Received: no route"
    with running(releases) as client:

        def fail(*arguments):
            raise ResourceError("E_STORE_UNAVAILABLE", secret)

        monkeypatch.setattr(client.service.releases.store, "write", fail)
        answer = client.put("/v1/items/a", json={"vector": [1.0] * 48}, headers=WITH_KEY)
        assert (answer.status_code, answer.json()["code"]) == (503, "E_STORE_UNAVAILABLE")
        assert "some" not in answer.text
        assert secret in caplog.text
        client.service.releases.current.follower.fault = secret
        (warning,) = client.get("/v1/release").json()["warnings"]
        assert "some" not in warning


def test_on_the_loopback_only_its_names_are_answered(published, tmp_path):
    with running(published, host="127.0.0.1", store=f"sqlite:///{tmp_path}/items.sqlite") as client:
        for host in ("localhost:8080", "127.0.0.1", "[::1]:8080"):
            assert client.get("/healthz", headers={"Host": host}).status_code == 200
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.nip.io:8080"):
            answer = client.get("/healthz", headers={"Host": host})
            assert (answer.status_code, answer.json()["code"]) == (421, "E_HOST")


def test_f25_beyond_the_bound_requests_are_refused_at_once_and_later_ones_answered(published, images, tmp_path):
    limits = Limits(pending=6, batch=4)
    with running(published, limits=limits, store=f"sqlite:///{tmp_path}/items.sqlite") as client:
        gate, statuses = held(client), []

        def ask():
            answer = client.post("/v1/search", content=images[0], headers=PNG)
            statuses.append((answer.status_code, answer.headers.get("retry-after")))

        askers = [threading.Thread(target=ask) for _ in range(24)]
        for asker in askers:
            asker.start()
        wait_for(lambda: len(statuses) == 18)
        assert {status for status, _ in statuses} == {429}
        assert all(1 <= int(seconds) <= 30 for _, seconds in statuses)
        assert client.get("/healthz").status_code == 200
        assert "anchorage_pending 6.0" in client.get("/metrics").text
        assert client.put("/v1/items/a", json={"vector": [1.0] * 48}, headers=WITH_KEY).status_code == 429
        gate.opened.set()
        for asker in askers:
            asker.join()
        assert sorted(status for status, _ in statuses) == [200] * 6 + [429] * 18
        assert sum(gate.sizes) == 6
        assert max(gate.sizes) <= 4  # what waited while the first batch ran was run together
        assert client.post("/v1/search", content=images[0], headers=PNG).status_code == 200
        assert client.service.admission.pending == 0


def test_a_request_that_times_out_gets_an_error_and_its_record_is_not_run(published, images, tmp_path):
    limits = Limits(request_seconds=0.3)
    with running(published, limits=limits, store=f"sqlite:///{tmp_path}/items.sqlite") as client:
        gate = held(client)
        answers = [client.post("/v1/search", content=images[0], headers=PNG) for _ in range(3)]
        assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(504, "E_DEADLINE")}
        gate.opened.set()
        wait_for(lambda: gate.sizes)
        assert client.post("/v1/search", json={"id": "class-0/0.png"}).status_code == 200
        assert gate.sizes == [1]  # the second and the third were dropped
        assert client.service.admission.pending == 0


def test_before_the_release_is_loaded_nothing_is_searched(published, images):
    from starlette.testclient import TestClient

    from anchorage_pipeline.serving.http.app import create_app
    from anchorage_pipeline.serving.service import Service
    from anchorage_pipeline.serving.settings import ServeSettings

    client = TestClient(create_app(Service(ServeSettings(release=published, host="0.0.0.0"))))
    assert client.get("/healthz").status_code == 200
    for answer in (client.get("/readyz"), client.post("/v1/search", content=images[0], headers=PNG)):
        assert (answer.status_code, answer.json()["code"]) == (503, "E_NOT_READY")
        assert answer.headers["retry-after"] == "1"


def test_metrics_count_requests_batches_stages_and_unknown_queries(releases, images):
    with running(releases) as client:
        client.post("/v1/search", content=images[0], headers=PNG)
        client.put("/v1/items/a", json={"vector": [1.0] * 48}, headers=WITH_KEY)
        client.get("/nowhere/at/all")
        text = client.get("/metrics").text
    for line in (
        'anchorage_requests_total{method="POST",route="/v1/search",status="200"} 1.0',
        'anchorage_requests_total{method="GET",route="none",status="404"} 1.0',
        'anchorage_stage_seconds_count{stage="check"} 1.0',
        'anchorage_stage_seconds_count{stage="embed"} 1.0',
        'anchorage_stage_seconds_count{stage="write"} 1.0',
        "anchorage_batch_size_count 1.0",
        "anchorage_queue_length 0.0",
        "anchorage_index_rows 13.0",
        "anchorage_queries_total 1.0",
        "anchorage_unknown_queries_total 1.0",
        'anchorage_written_items_total{kind="put"} 1.0',
    ):
        assert line in text


def test_an_admission_counts_what_is_in_work():
    admission = Admission(3, wait_seconds=1)
    admission.enter(2)
    with pytest.raises(OverloadedError):
        admission.enter(2)
    admission.enter()
    admission.leave(3, seconds=0.1)
    assert admission.pending == 0


def test_work_that_would_wait_too_long_is_refused_until_the_work_is_fast_again():
    admission = Admission(100, wait_seconds=1)
    admission.enter(90)
    for _ in range(80):
        admission.leave(seconds=20)  # fewer than five a second, and ten are left
    with pytest.raises(OverloadedError):
        admission.enter()
    admission.leave(9)
    for _ in range(200):
        admission.leave(seconds=0.01)
        admission.enter()  # one at once is never refused
    admission.enter(90)


def test_a_fault_of_the_model_reaches_each_caller_and_the_next_batch_runs():
    from concurrent.futures import ThreadPoolExecutor

    def run(records):
        if "bad" in records:
            raise ValueError("bad")
        return [record.upper() for record in records]

    async def scenario():
        with ThreadPoolExecutor(1) as pool:
            batcher = Batcher(run, 2, pool)
            found = await asyncio.gather(*map(batcher.submit, ["bad", "a", "b"]), return_exceptions=True)
            return [type(each).__name__ if isinstance(each, Exception) else each for each in found]

    assert run_async(scenario()) == ["ValueError", "ValueError", "B"]
