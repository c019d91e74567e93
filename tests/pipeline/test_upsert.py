"""Items of a table go to a service as it documents its interface, whole requests again when it is busy."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from anchorage.errors import DataError, ResourceError, UsageError
from anchorage.retrieval.table import Embeddings, write_table
from anchorage_pipeline import upsert
from anchorage_pipeline.serving.http.schemas import BatchBody
from anchorage_pipeline.upsert import ServedIndex

MODEL = "f" * 64


class Service(ThreadingHTTPServer):
    """Takes batches as the service does; `refusals` are the answers to the first ones."""

    def __init__(self):
        super().__init__(("localhost", 0), Handler)
        self.url = f"http://localhost:{self.server_port}"
        self.kind, self.refusals, self.items, self.requests = "images", [], {}, []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, {"version": 3, "fingerprint": MODEL, "input": self.server.kind})

    def do_POST(self):
        body = BatchBody.model_validate_json(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers["Authorization"], self.headers["Content-Type"]))
        if self.server.refusals:
            return self.answer(self.server.refusals.pop(0), {"code": "E_ITEMS_REFUSED", "detail": "one is bad"})
        self.server.items |= {item.id: item for item in body.put}
        return self.answer(200, {})

    def answer(self, status, document):
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if status in {429, 503}:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setenv("ANCHORAGE_API_KEY", "the key")
    monkeypatch.setattr(upsert, "_ITEMS", 2)
    with Service() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def table(tmp_path):
    texts = [np.array(values, object) for values in (["a", "b/ü", "c"], ["cat", "", "dog"], ["both"] * 3, [""] * 3)]
    write_table(tmp_path / "table.parquet", Embeddings(*texts, np.array([[1, 0], [0, 1], [0.5, 0.5]], np.float32)))
    return tmp_path / "table.parquet"


def test_all_items_arrive_with_vectors_and_labels(service, table):
    assert ServedIndex(service.url + "/", MODEL).add(table) == 3
    assert service.requests == [("/v1/items:batch", "Bearer the key", "application/json")] * 2
    assert {id_: (item.label, list(item.vector)) for id_, item in service.items.items()} == {
        "a": ("cat", [1, 0]),
        "b/ü": (None, [0, 1]),  # what is not given stays as it is
        "c": ("dog", [0.5, 0.5]),
    }


def test_a_busy_service_is_asked_again(service, table):
    service.refusals, waits = [429, 503], []
    assert ServedIndex(service.url, MODEL, waits.append).add(table) == 3
    assert sorted(service.items) == ["a", "b/ü", "c"]
    assert waits == [1.0, 1.0]


def test_what_goes_wrong_is_said(service, table, monkeypatch):
    service.refusals = [422]
    with pytest.raises(DataError, match=r"E_UPSERT: .* E_ITEMS_REFUSED: one is bad"):
        ServedIndex(service.url, MODEL).add(table)
    service.refusals, waits = [503] * 20, []
    with pytest.raises(ResourceError, match=r"E_SERVICE: .* 8 attempts. Received: status 503"):
        ServedIndex(service.url, MODEL, waits.append).add(table)
    assert waits == [1.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0]  # long enough for a service to start again
    with pytest.raises(DataError, match=r"E_RELEASE_MIXED: .* serves release 3 with ffff"):
        ServedIndex(service.url, "e" * 64)
    service.kind = "vectors"
    with pytest.raises(UsageError, match=r"E_UPSERT_VECTORS"):
        ServedIndex(service.url, MODEL)
    monkeypatch.delenv("ANCHORAGE_API_KEY")
    with pytest.raises(UsageError, match=r"E_KEY_MISSING"):
        ServedIndex(service.url, MODEL)
