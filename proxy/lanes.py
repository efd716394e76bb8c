"""Owns what all requests of one policy for one model have in common: where they go, and how they begin.

It is found out once and kept with the policy, so that a request pays for what is its own alone.
"""

from collections.abc import Sequence

from proxy.policy import Credential, Policy
from proxy.record import begin_of
from proxy.routing import Route
from proxy.runtime import Runtime, destination
from proxy.upstream import Line, prepare
from proxy.wire import Wire
from usage.journal import Template

JSON_BODY = (b"content-type", b"application/json")


class Lane:
    """One model at its provider, asked at one of our endpoints. `wire` is None where we answer ourselves."""

    __slots__ = ("_endpoint", "_lines", "_method", "_records", "credentials", "provider", "route", "wire")

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
        self._records: dict[tuple[int, bool], Template] = {}

    def line(self, runtime: Runtime, credential: Credential, *, stream: bool, is_json: bool) -> Line:
        """What a request begins with; `is_json` says that its body is."""
        key = credential.context.base_url, stream, is_json
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = self._prepared(runtime, *key)
        return line

    def records(self, policy: Policy, credential: Credential | None, *, stream: bool) -> Template:
        """What the journal says of a request: None is the credential until one is chosen."""
        key = id(credential), stream  # it lives as long as we do, and to hash its id would take longer than the rest
        template = self._records.get(key)
        if template is None:
            api_key_id = credential.api_key_id if credential is not None else None
            begin = begin_of(policy, self._endpoint, self.route, api_key_id, stream=stream)
            template = self._records[key] = Template(begin)
        return template

    def _prepared(self, runtime: Runtime, base_url: str, stream: bool, is_json: bool) -> Line:
        assert self.wire is not None
        where = destination(base_url or runtime.base_urls[self.provider])
        target = where.path + self.wire.target(self._endpoint, self.route.model, stream)
        headers = (*runtime.outgoing_headers, *((JSON_BODY,) if is_json else ()))
        return prepare(where.origin, self._method, target.encode("ascii"), headers)
