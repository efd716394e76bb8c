"""Owns what all requests of one policy for one model have in common: where they go, and how they begin.

It is found out once and kept with the policy, so that a request pays for what is its own alone.
"""

from collections.abc import Sequence

from accounts.ids import uuid7
from proxy.policy import Credential, Policy
from proxy.record import begin_of
from proxy.routing import Route
from proxy.runtime import Runtime, destination
from proxy.upstream import Line, prepare
from proxy.wire import Wire
from usage.journal import BeginTemplate

JSON_BODY = (b"content-type", b"application/json")


class Lane:
    """One model at its provider, asked at one of our endpoints. `wire` is None where we answer ourselves."""

    __slots__ = ("_begins", "_endpoint", "_lines", "_method", "credentials", "provider", "route", "wire")

    def __init__(
        self, route: Route, wire: Wire | None, credentials: Sequence[Credential], endpoint: str, method: str
    ) -> None:
        self.route = route
        self.provider = route.provider
        self.wire = wire
        self.credentials = credentials
        self._endpoint = endpoint
        self._method = method.encode()
        self._lines: dict[tuple[str, bool, bool], Line] = {}
        self._begins: dict[bool, BeginTemplate] = {}

    def line(self, runtime: Runtime, credential: Credential, *, stream: bool, is_json: bool) -> Line:
        """What a request begins with; `is_json` says that its body is."""
        key = credential.context.base_url, stream, is_json
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = self._prepared(runtime, *key)
        return line

    def begin(self, policy: Policy, *, stream: bool) -> BeginTemplate:
        """What the journal says of a request before it is sent."""
        template = self._begins.get(stream)
        if template is None:
            begin = begin_of(uuid7(), policy, self._endpoint, self.route, stream=stream)
            template = self._begins[stream] = BeginTemplate(begin)
        return template

    def _prepared(self, runtime: Runtime, base_url: str, stream: bool, is_json: bool) -> Line:
        assert self.wire is not None
        where = destination(base_url or runtime.base_urls[self.provider])
        target = where.path + self.wire.target(self._endpoint, self.route.model, stream)
        headers = (*runtime.outgoing_headers, *((JSON_BODY,) if is_json else ()))
        return prepare(where.origin, self._method, target.encode("ascii"), headers)
