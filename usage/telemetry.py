"""Owns what an OpenTelemetry collector is told of exchanges, by the GenAI conventions; nothing of prompts or keys.

The shipper makes it of rows that are stored: no request waits for it, and none is told twice. Only `telling` may be
imported from here while nothing is told: what it needs is in requirements/otel.txt, and is loaded by it alone.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from django.conf import settings

from accounts.ids import made_at
from usage.models import Outcome
from usage.records import End

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

Tell = Callable[[Iterable[End]], None]

# Endpoints that make something, and what the conventions call it.
OPERATIONS = {
    "chat.completions": "chat",
    "messages": "chat",
    "responses": "chat",
    "embeddings": "embeddings",
    "images.generations": "generate_content",
    "images.edits": "generate_content",
    "audio.speech": "generate_content",
    "audio.transcriptions": "generate_content",
    "audio.translations": "generate_content",
}
PROVIDERS = {"google": "gcp.gemini"}  # the others are called what we call them
FINE = {Outcome.OK.value, Outcome.CLIENT_GONE.value}
# As the conventions advise.
SECONDS = [0.01 * 2**step for step in range(14)]
TOKENS = [4**step for step in range(14)]
PATIENCE = 3.0  # seconds for the collector to answer, and at the end


@contextlib.contextmanager
def telling() -> Iterator[Tell]:
    """What tells the collector; what does nothing, and loads nothing, while there is none."""
    if not settings.AIPROXY_OTLP_ENDPOINT:
        yield lambda ends: None
        return
    telemetry = Telemetry(settings.AIPROXY_OTLP_ENDPOINT.rstrip("/"))
    try:
        yield telemetry.tell
    finally:
        telemetry.close()


class Telemetry:
    """Its threads send in batches; what a collector that is away does not take is dropped."""

    def __init__(self, endpoint: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES overrule.
        resource = Resource.create({"service.name": "aiproxy"}).merge(OTELResourceDetector().detect())
        spans = OTLPSpanExporter(f"{endpoint}/v1/traces", timeout=PATIENCE)
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{endpoint}/v1/metrics", timeout=PATIENCE))
        self._tracers: TracerProvider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._tracers.add_span_processor(BatchSpanProcessor(spans))
        self._meters = MeterProvider([reader], resource, shutdown_on_exit=False)
        self._tracer = self._tracers.get_tracer("aiproxy")
        self._measures = Measures(self._meters.get_meter("aiproxy"))

    def tell(self, ends: Iterable[End]) -> None:
        for end in ends:
            if operation := OPERATIONS.get(end.endpoint):
                shared = {"gen_ai.operation.name": operation}
                if end.provider:
                    shared["gen_ai.provider.name"] = PROVIDERS.get(end.provider, end.provider)
                if end.outcome not in FINE:
                    shared["error.type"] = end.outcome
                self._trace(end, shared)
                if end.provider:
                    self._measures.add(end, shared)

    def close(self) -> None:
        self._tracers.shutdown()
        self._meters.shutdown(timeout_millis=PATIENCE * 1000)

    def _trace(self, end: End, shared: dict[str, str]) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        began = int(made_at(end.id).timestamp() * 1000) * 1_000_000
        span = self._tracer.start_span(
            f"{shared['gen_ai.operation.name']} {end.model}",
            TraceContextTextMapPropagator().extract({"traceparent": end.traceparent}),
            SpanKind.CLIENT,
            shared | attributes(end),
            start_time=began,
        )
        if "error.type" in shared:
            span.set_status(Status(StatusCode.ERROR))
        span.end(began + end.latency_ms * 1_000_000)


class Measures:
    def __init__(self, meter: "Meter") -> None:
        self._seconds = meter.create_histogram(
            "gen_ai.client.operation.duration", "s", "GenAI operation duration.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )  # fmt: skip
        self._first = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk", "s", "Time to receive the first chunk.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )  # fmt: skip
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage", "{token}", "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKENS,
        )  # fmt: skip

    def add(self, end: End, shared: dict[str, str]) -> None:
        if end.outcome == Outcome.OK:  # else the name is anything that somebody wrote
            shared = shared | {"gen_ai.request.model": end.model}
        self._seconds.record(end.latency_ms / 1000, shared)
        if end.streamed and end.ttft_ms is not None:
            self._first.record(end.ttft_ms / 1000, shared)
        if end.tokens_total:
            self._tokens.record(end.tokens_input, shared | {"gen_ai.token.type": "input"})
            self._tokens.record(end.tokens_output, shared | {"gen_ai.token.type": "output"})


def attributes(end: End) -> dict[str, Any]:
    """Of a span alone: figures, and the id under which the log has the rest."""
    found = {
        "gen_ai.request.model": end.model,
        "gen_ai.request.stream": end.streamed,
        "gen_ai.usage.input_tokens": end.tokens_input,
        "gen_ai.usage.output_tokens": end.tokens_output,
        "gen_ai.usage.cache_read.input_tokens": end.tokens_cached,
        "gen_ai.usage.reasoning.output_tokens": end.tokens_reasoning,
        "http.response.status_code": end.status_code,
        "aiproxy.request_id": str(end.id),
    }
    if end.ttft_ms is not None:
        found["gen_ai.response.time_to_first_chunk"] = end.ttft_ms / 1000
    if end.cost is not None:
        found["aiproxy.cost"] = float(end.cost)
    return found
