"""Owns what happens around every control-plane request; the data plane has its own ways."""

import logging
import os
from collections.abc import Callable
from typing import Any, ClassVar

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse
from django.http.request import split_domain_port
from rest_framework.renderers import BrowsableAPIRenderer
from whitenoise.middleware import WhiteNoiseMiddleware
from whitenoise.responders import StaticFile

from accounts import addresses
from accounts.ids import new_id
from aiproxy import errors, health, logs, metrics
from audit import origin

View = Callable[[HttpRequest], HttpResponse]

POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# The browsable API carries style attributes.
_BROWSABLE_POLICY = f"{POLICY}; style-src 'self' 'unsafe-inline'"
# By path, ahead of all that asks the database or checks the Host: an orchestrator asks by the pod's address.
_PROBES: dict[str, View] = {
    "/health": health.health,
    "/livez": health.livez,
    "/readyz": health.readyz,
    "/metrics": metrics.exposition,
}

logger = logging.getLogger(__name__)


def request_id(get_response: View) -> View:
    """Names each request: in its log lines, and for its client in `x-request-id`."""

    def middleware(request: HttpRequest) -> HttpResponse:
        name = new_id().decode()
        request.META[errors.REQUEST_ID] = name
        logs.request_id.set(name)  # stays: Django logs refusals after the last middleware
        response = get_response(request)
        response.headers["X-Request-Id"] = name
        return response

    return middleware


def client_address(get_response: View) -> View:
    """REMOTE_ADDR and the scheme, as AIPROXY_TRUSTED_PROXIES let the forwarding headers speak for them."""
    trusted = addresses.networks(settings.AIPROXY_TRUSTED_PROXIES)

    def middleware(request: HttpRequest) -> HttpResponse:
        meta = request.META
        peer = addresses.parse_address(meta.get("REMOTE_ADDR", ""))
        protocol = meta.pop("HTTP_X_FORWARDED_PROTO", "")
        if peer is not None:
            forwarded = meta.get("HTTP_X_FORWARDED_FOR", "")
            meta["REMOTE_ADDR"] = addresses.client_address(str(peer), [forwarded] if forwarded else [], trusted)
            if protocol and addresses.is_within(peer, trusted):
                # Only the last entry is the proxy's own; SECURE_PROXY_SSL_HEADER reads it.
                meta["HTTP_X_FORWARDED_PROTO"] = protocol.rpartition(",")[2].strip()
        return get_response(request)

    return middleware


def audited(get_response: View) -> View:
    """What the audit log says of whatever happens in this request."""

    def middleware(request: HttpRequest) -> HttpResponse:
        with origin.asked_by(request, request.META[errors.REQUEST_ID]):
            return get_response(request)

    return middleware


class StaticFiles(WhiteNoiseMiddleware):  # type: ignore[misc]
    _found: ClassVar[dict[str, Any]] = {}

    def add_files_from_finders(self) -> None:
        """Once a process, though each test client makes a middleware of its own."""
        if not self._found:
            super().add_files_from_finders()
            self._found.update(self.files)
        self.files.update(self._found)

    @staticmethod
    def serve(static_file: StaticFile, request: HttpRequest) -> HttpResponse:
        """In one piece: they are small, and a file's synchronous iterator would be read through threads."""
        answer = static_file.get_response(request.method, request.META)
        content = b""
        if answer.file is not None:
            with answer.file as file:
                content = file.read()
        return HttpResponse(content, status=int(answer.status), headers=dict(answer.headers))

    def add_files(self, root: str, prefix: str | None = None) -> None:
        """Without a warning when nothing was collected."""
        if os.path.isdir(root):
            super().add_files(root, prefix)


def probes(get_response: View) -> View:
    def middleware(request: HttpRequest) -> HttpResponse:
        probe = _PROBES.get(request.path_info)
        if probe is None:
            return get_response(request)
        response = probe(request)
        # They are asked every few seconds and log changes themselves; Django would log each 503.
        response._has_been_logged = True  # type: ignore[attr-defined]
        response.headers["Content-Length"] = str(len(response.content))
        return response

    return middleware


def back_office_host(get_response: View) -> View:
    """Elsewhere than at AIPROXY_ADMIN_HOST there is no back-office: the same 404 as for a page that never was."""
    host, path = settings.AIPROXY_ADMIN_HOST, f"/{settings.AIPROXY_ADMIN_PATH}/"

    def middleware(request: HttpRequest) -> HttpResponse:
        if f"{request.path_info}/".startswith(path) and split_domain_port(request.get_host())[0] != host:
            return errors.not_found(request, Http404())
        return get_response(request)

    return middleware if host else get_response


def database_away(get_response: View) -> View:
    """An absent database is 503 and Retry-After: never a 401, and never a 500."""

    def process_exception(request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not errors.is_database_away(exception):
            return None
        logger.error("The database is away: %s", exception)
        return errors.database_away(request)

    def middleware(request: HttpRequest) -> HttpResponse:
        return get_response(request)

    middleware.process_exception = process_exception  # type: ignore[attr-defined]
    return middleware


def content_security_policy(get_response: View) -> View:
    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        is_browsable = isinstance(getattr(response, "accepted_renderer", None), BrowsableAPIRenderer)
        response.headers.setdefault("Content-Security-Policy", _BROWSABLE_POLICY if is_browsable else POLICY)
        return response

    return middleware
