"""What a collector is told: decoded by the protocol's own definitions, as a collector would."""

import os
import subprocess
import sys
import threading
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.conf import settings as django_settings
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from accounts.ids import made_at
from usage.shipper import Shipper
from usage.telemetry import telling
from usage.tests.conftest import an_end, exchange, rows

pytestmark = pytest.mark.django_db
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
KINDS = {"/v1/traces": ExportTraceServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}


class Collector(ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.told = {path: [] for path in KINDS}

    def spans(self):
        return [span for told in self.told["/v1/traces"] for of in told.resource_spans for scope in of.scope_spans
                for span in scope.spans]  # fmt: skip

    def points(self):
        """Of the last export of each metric, its points by name."""
        return {metric.name: list(metric.histogram.data_points) for told in self.told["/v1/metrics"]
                for of in told.resource_metrics for scope in of.scope_metrics for metric in scope.metrics}  # fmt: skip


class Answer(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.told[self.path].append(KINDS[self.path].FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector(settings):
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        settings.AIPROXY_OTLP_ENDPOINT = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()
        thread.join()


def ship(directory):
    with telling() as tell:
        Shipper(directory, tell=tell).run_once()


def plain(attributes):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def test_it_tells_of_an_exchange_by_the_genai_conventions(journal, directory, collector):
    id = exchange(journal, endpoint="chat.completions", traceparent=PARENT, streamed=True, latency_ms=1500, ttft_ms=200,
                  cost=Decimal("0.25"), tokens_cached=5)  # fmt: skip
    ship(directory)
    (span,) = collector.spans()
    assert (span.name, span.kind) == ("chat gpt-4o-mini", Span.SPAN_KIND_CLIENT)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == tuple(PARENT.split("-")[1:3])
    assert span.start_time_unix_nano // 1_000_000 == int(made_at(id).timestamp() * 1000)
    assert span.end_time_unix_nano - span.start_time_unix_nano == 1_500_000_000
    assert plain(span.attributes) == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.request.stream": True, "gen_ai.response.time_to_first_chunk": 0.2, "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 30, "gen_ai.usage.cache_read.input_tokens": 5,
        "gen_ai.usage.reasoning.output_tokens": 0, "http.response.status_code": 200, "aiproxy.request_id": str(id),
        "aiproxy.cost": 0.25,
    }  # fmt: skip


@pytest.mark.parametrize(("name", "told"), [("", "aiproxy"), ("proxy-eu", "proxy-eu")])
def test_it_is_called_aiproxy_unless_the_operator_says_otherwise(
    journal, directory, collector, monkeypatch, name, told
):
    monkeypatch.setenv("OTEL_SERVICE_NAME", name)
    exchange(journal, endpoint="chat.completions")
    ship(directory)
    (of,) = collector.told["/v1/traces"][0].resource_spans
    assert plain(of.resource.attributes)["service.name"] == told


def test_it_counts_time_and_tokens(journal, directory, collector):
    for _ in range(2):
        exchange(journal, endpoint="embeddings", provider="google", latency_ms=1500)
    ship(directory)
    points = collector.points()
    shared = {"gen_ai.operation.name": "embeddings", "gen_ai.provider.name": "gcp.gemini",
              "gen_ai.request.model": "gpt-4o-mini"}  # fmt: skip
    (seconds,) = points["gen_ai.client.operation.duration"]
    assert (plain(seconds.attributes), seconds.count, seconds.sum) == (shared, 2, 3.0)
    sums = {plain(point.attributes)["gen_ai.token.type"]: point.sum for point in points["gen_ai.client.token.usage"]}
    assert sums == {"input": 24, "output": 60}


def test_a_failure_is_an_error_without_the_words_of_it(journal, directory, collector):
    exchange(journal, endpoint="chat.completions", model="made up by a client", outcome="provider_error",
             status_code=502, error_message="words of a provider")  # fmt: skip
    ship(directory)
    (span,) = collector.spans()
    assert (span.status.code, plain(span.attributes)["error.type"]) == (Status.STATUS_CODE_ERROR, "provider_error")
    assert "words" not in str(span)
    (seconds,) = collector.points()["gen_ai.client.operation.duration"]
    assert "gen_ai.request.model" not in plain(seconds.attributes)  # anybody could make any number of them


def test_it_tells_of_no_row_twice_and_of_no_list(journal, directory, collector):
    id = exchange(journal, endpoint="chat.completions")
    exchange(journal, endpoint="models")
    ship(directory)
    journal.end(an_end(id, endpoint="chat.completions"))
    ship(directory)
    assert len(collector.spans()) == 1


def test_who_did_not_sample_its_trace_has_none_here(journal, directory, collector):
    exchange(journal, endpoint="chat.completions", traceparent=PARENT[:-1] + "0")
    ship(directory)
    assert collector.spans() == []


def test_rows_are_stored_though_the_collector_is_away(journal, directory, settings):
    settings.AIPROXY_OTLP_ENDPOINT = "http://127.0.0.1:1"
    id = exchange(journal, endpoint="chat.completions")
    ship(directory)
    assert list(rows()) == [id]


def test_it_does_without_the_packages_while_nobody_is_told():
    code = "import sys; sys.modules['opentelemetry'] = None; import aiproxy.asgi; from usage.telemetry import telling\n"
    code += "with telling() as tell: tell([])"
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "aiproxy.settings"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=django_settings.BASE_DIR, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
