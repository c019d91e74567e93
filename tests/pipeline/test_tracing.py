"""Spans of a run and of requests, collected in memory."""

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


def test_an_endpoint_needs_the_packages_of_the_extra(monkeypatch):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    try:
        tracing.start_tracing()
        assert tracing._tracer is not None
    finally:
        tracing._tracer = None
