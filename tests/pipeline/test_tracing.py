"""Spans of a run and of requests, collected in memory and by a collector of OTLP."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from anchorage_pipeline import tracing
from anchorage_pipeline.run import RunSummary


@pytest.fixture
def spans():
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.start_tracing(provider)
    yield exporter.get_finished_spans
    tracing.stop_tracing()


def test_a_run_has_a_span_per_node_with_the_recorded_times(spans):
    summary = RunSummary(
        states={"Ingest": "CACHED", "Trainer": "FAILED"}, times={"Ingest": (1000, 1250), "Trainer": (1250, 5000)}
    )
    with tracing.span("anchorage.run", anchorage__experiment="icons", anchorage__none=None):
        tracing.annotate(anchorage__run="abc")
        tracing.trace_nodes(lambda: summary)
    ingest, trainer, run = spans()
    assert (run.name, dict(run.attributes)) == (
        "anchorage.run", {"anchorage.experiment": "icons", "anchorage.run": "abc"},
    )  # fmt: skip
    assert [(node.name, node.start_time, node.end_time) for node in (ingest, trainer)] == [
        ("Ingest", 1_000_000_000, 1_250_000_000),
        ("Trainer", 1_250_000_000, 5_000_000_000),
    ]
    assert ingest.parent.span_id == trainer.parent.span_id == run.context.span_id
    assert (ingest.status.is_ok, trainer.status.is_ok) == (True, False)
    assert trainer.attributes["anchorage.state"] == "FAILED"


def test_without_an_endpoint_nothing_is_traced(monkeypatch):
    for name in tracing._ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    tracing.start_tracing()
    with tracing.span("anything") as current:
        assert current is None
    tracing.annotate(a=1)
    tracing.trace_nodes(lambda: pytest.fail("read in vain"))


_PROGRAM = """
from anchorage_pipeline import tracing

tracing.start_tracing()
with tracing.span("anchorage.run", anchorage__experiment="icons"), tracing.span("inside"):
    pass
"""


class Collector(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_collector_has_all_spans_when_the_program_has_ended():
    trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        server.received = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            given = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
                "OTEL_SERVICE_NAME": "retraining",
            }
            subprocess.run([sys.executable, "-c", _PROGRAM], env={**os.environ, **given}, check=True, timeout=120)
        finally:
            server.shutdown()
            thread.join()
    [(path, body)] = server.received
    assert path == "/v1/traces"
    [resource] = trace_service.ExportTraceServiceRequest.FromString(body).resource_spans
    assert {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"] == "retraining"
    inside, run = resource.scope_spans[0].spans
    assert (inside.name, run.name) == ("inside", "anchorage.run")
    assert inside.parent_span_id == run.span_id
    assert [(each.key, each.value.string_value) for each in run.attributes] == [("anchorage.experiment", "icons")]


def test_an_endpoint_needs_the_packages_of_the_extra(monkeypatch):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    try:
        tracing.start_tracing()
        assert tracing._tracer is not None
    finally:
        tracing._tracer = None
