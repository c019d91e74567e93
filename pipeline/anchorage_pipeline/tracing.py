"""OpenTelemetry spans of runs and requests, if `OTEL_EXPORTER_OTLP_ENDPOINT` is set; else nothing is imported."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from anchorage.extras import needs_extra

if TYPE_CHECKING:
    from anchorage_pipeline.run import RunSummary

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_log = logging.getLogger(__name__)
_tracer: Any = None  # of OpenTelemetry, once tracing has started


def start_tracing(provider: Any = None) -> None:
    """Begin to trace this process, if the environment names an endpoint.

    Args:
        provider: a tracer provider instead of the one that the environment describes.

    Raises:
        UsageError: `E_EXTRA_MISSING` without the packages of the extra `tracing`.
    """
    global _tracer
    if provider is None:
        if (named := next(filter(os.environ.get, _ENDPOINTS), None)) is None:
            return
        with needs_extra("tracing", f"The endpoint of {named}"):
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        name = os.environ.get("OTEL_SERVICE_NAME", "anchorage")
        provider = TracerProvider(resource=Resource.create({"service.name": name}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = provider.get_tracer("anchorage")


def stop_tracing() -> None:
    """Trace no longer."""
    global _tracer
    _tracer = None


@contextmanager
def span(name: str, **attributes: Any) -> Iterator[Any]:
    """Trace what is done inside, as a child of the span around it; yield the span, or None if nothing is traced."""
    if _tracer is None:
        yield None
        return
    with _tracer.start_as_current_span(name, attributes=_plain(attributes)) as current:
        yield current


def annotate(**attributes: Any) -> None:
    """Add attributes to the current span."""
    if _tracer is not None:
        from opentelemetry import trace

        trace.get_current_span().set_attributes(_plain(attributes))


def trace_nodes(read: Callable[[], "RunSummary"]) -> None:
    """Add a span for each node of a run that has ended, with the times that ML Metadata recorded.

    Args:
        read: returns the run; called only if it is traced. If it fails, there are no spans: no run fails for them.
    """
    if _tracer is None:
        return
    from opentelemetry.trace import Status, StatusCode

    try:
        summary = read()
    except Exception as error:
        _log.warning("the nodes are not traced: %s", error)
        return
    for node, (start, end) in summary.times.items():
        state = summary.states.get(node, "unknown")
        child = _tracer.start_span(
            node, start_time=start * 1_000_000, attributes=_plain({"anchorage.node": node, "anchorage.state": state})
        )
        if state not in ("COMPLETE", "CACHED"):
            child.set_status(Status(StatusCode.ERROR, state))
        child.end(end_time=end * 1_000_000)


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("__", "."): value for name, value in attributes.items() if value is not None}
