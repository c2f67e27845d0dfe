import pytest

from skufp_pipeline.errors import UserError
from skufp_pipeline.serving.record import Record
from skufp_pipeline.serving.traces import ENDPOINT, tracer, tracers

export = pytest.importorskip(
    "opentelemetry.sdk.trace.export", reason="traces need the extra: pip install 'skufp-pipeline[otel]'"
)


def test_a_request_is_a_span_with_its_stages_one_after_the_other() -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept = InMemorySpanExporter()
    trace = tracer(export.SimpleSpanProcessor(kept))
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    record = Record("POST", 1_000_000_000, {"traceparent": parent, "x-api-key": "secret"})
    record.route, record.status, record.milliseconds = "/v1/search", 200, 30.0
    record.request_id = "abc"
    record.answered("fingerprints", "one", {"queue": 5.0, "encode": 20.0, "search": 100.0})
    trace(record)
    *stages, whole = kept.get_finished_spans()
    assert [(span.name, span.start_time, span.end_time) for span in stages] == [
        ("queue", 1_000_000_000, 1_005_000_000),
        ("encode", 1_005_000_000, 1_025_000_000),
        ("search", 1_025_000_000, 1_030_000_000),  # no stage outlasts its request
    ]
    assert (whole.name, whole.end_time - whole.start_time) == ("POST /v1/search", 30_000_000)
    assert f"{whole.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert {span.parent.span_id for span in stages} == {whole.context.span_id}
    assert whole.attributes["http.route"] == "/v1/search"
    assert "skufp.verdict" not in whole.attributes
    assert "secret" not in str([span.to_json() for span in (*stages, whole)])


def test_a_failed_request_is_a_failed_span() -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept = InMemorySpanExporter()
    record = Record("GET", 1, status=500, failure="ValueError")
    tracer(export.SimpleSpanProcessor(kept))(record)
    (span,) = kept.get_finished_spans()
    assert (span.status.is_ok, span.status.description) == (False, "ValueError")


def test_traces_are_off_without_somewhere_to_go() -> None:
    assert tracers({}) == []
    assert tracers({ENDPOINT: ""}) == []


def test_traces_go_out_where_the_extra_is_installed_else_it_is_named() -> None:
    try:
        import opentelemetry.exporter.otlp.proto.http  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match=r"pip install 'skufp-pipeline\[otel\]'"):
            tracers({ENDPOINT: "http://127.0.0.1:9"})
    else:
        assert len(tracers({ENDPOINT: "http://127.0.0.1:9"})) == 1
