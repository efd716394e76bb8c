"""Owns how metrics leave the service: /metrics by token, or a port of its own. Each app owns what it counts.

With PROMETHEUS_MULTIPROC_DIR set, the numbers of all processes that share the directory are added up.
"""

import hmac
import os
from typing import Any
from wsgiref.simple_server import WSGIServer

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import require_safe
from django_prometheus.middleware import PrometheusAfterMiddleware
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector


class AfterMiddleware(PrometheusAfterMiddleware):  # type: ignore[misc]
    """Labels come from closed sets: a method is the client's own text until it is checked."""

    def label_metric(
        self, metric: Any, request: HttpRequest, response: HttpResponse | None = None, **labels: Any
    ) -> Any:
        if "method" in labels:
            labels["method"] = self._method(request)
        return super().label_metric(metric, request, response, **labels)


def registry() -> CollectorRegistry:
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        return REGISTRY
    together = CollectorRegistry()
    MultiProcessCollector(together)  # type: ignore[no-untyped-call]
    return together


def may_read(request: HttpRequest) -> bool:
    token = settings.AIPROXY_METRICS_TOKEN
    given = request.headers.get("Authorization", "")
    return bool(token) and hmac.compare_digest(given.encode(), f"Bearer {token}".encode())


@require_safe
def exposition(request: HttpRequest) -> HttpResponse:
    """Prometheus' text format. Without the token there is nothing here, as without a token configured."""
    if not may_read(request):
        raise Http404
    return HttpResponse(generate_latest(registry()), content_type=CONTENT_TYPE_LATEST)


def serve_port(port: int) -> WSGIServer:
    """Serves them on AIPROXY_METRICS_HOST, in a thread, as long as the process lives; one process of a service does."""
    server, _ = start_http_server(port, addr=settings.AIPROXY_METRICS_HOST, registry=registry())
    return server
