"""A request has a span, and one below it per stage."""

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from releases import draw_images

from anchorage_pipeline import tracing


def test_a_search_has_spans_of_its_stages_below_that_of_the_request(shared):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracing.start_tracing(provider)
    try:
        shared.post("/v1/search?k=1", content=draw_images(1, seed=9)[0], headers={"Content-Type": "image/png"})
    finally:
        tracing.stop_tracing()
    *stages, request = exporter.get_finished_spans()
    assert request.name == "POST /v1/search"
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["anchorage.release"] == 2
    assert [stage.name for stage in stages] == ["check", "embed", "search"]
    assert {stage.parent.span_id for stage in stages} == {request.context.span_id}
