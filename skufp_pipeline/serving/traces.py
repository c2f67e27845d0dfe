"""Traces of requests and their stages, by OpenTelemetry (extra `otel`).

They are on where the extra is installed and $OTEL_EXPORTER_OTLP_ENDPOINT names where they go. A span has what
a line of the log has, and the stages of a search are its children, one after the other.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from skufp_pipeline.errors import UserError
from skufp_pipeline.serving.record import Observer, Record

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanProcessor

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
MISSING = (
    f"${ENDPOINT} is set, and the extra for traces is not installed; run pip install 'skufp-pipeline[otel]', "
    "or unset the variable"
)


def tracers(environment: Mapping[str, str] = os.environ) -> list[Observer]:
    """What traces requests; empty where traces are off. Raises UserError if the extra is missing."""
    if not environment.get(ENDPOINT):
        return []
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise UserError(MISSING) from error
    return [tracer(BatchSpanProcessor(OTLPSpanExporter()))]


def tracer(processor: "SpanProcessor") -> Observer:
    """What makes a trace of each request and gives its spans to the processor."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    provider = TracerProvider(resource=Resource.create({"service.name": "skufp"}))
    provider.add_span_processor(processor)
    source, propagator = provider.get_tracer(__name__), TraceContextTextMapPropagator()

    def trace(record: Record) -> None:
        told: dict[str, str | int | None] = {
            "http.request.method": record.method,
            "http.route": record.route,
            "http.response.status_code": record.status,
            "skufp.request_id": record.request_id,
            "skufp.index": record.index,
            "skufp.version": record.version,
            "skufp.verdict": record.verdict,
        }
        span = source.start_span(
            f"{record.method} {record.route}",
            propagator.extract(record.headers),
            SpanKind.SERVER,
            {name: value for name, value in told.items() if value is not None},
            start_time=record.began_ns,
        )
        end = record.began_ns + int(record.milliseconds * 1e6)
        at = record.began_ns
        for stage, milliseconds in record.stages.items():
            child = source.start_span(stage, set_span_in_context(span), start_time=at)
            at = min(end, at + int(milliseconds * 1e6))
            child.end(at)
        if record.status >= 500:
            span.set_status(Status(StatusCode.ERROR, record.failure))
        span.end(end)

    return trace
