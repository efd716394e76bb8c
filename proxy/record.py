"""Owns what is written down of an exchange: its begin, its end, its metrics. Builds them; the journal keeps them."""

import re

import msgspec

from proxy import metrics
from proxy.errors import InternalError, ProxyError, UpstreamError, UpstreamTimeout
from proxy.incoming import Headers
from proxy.wire import Usage
from usage.journal import End

_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Times(msgspec.Struct, frozen=True):
    """Monotonic seconds; 0.0 where it did not come to that."""

    began: float
    first_byte: float
    ended: float


def outcome(*, complete: bool, cause: str, error: ProxyError | None) -> str:
    """One of usage.models.Outcome; `cause` is why the exchange was stopped from outside."""
    if complete:
        return "ok"
    if cause in {"client_gone", "drained"}:
        return cause
    if isinstance(error, UpstreamTimeout):
        return "timeout"
    if isinstance(error, UpstreamError):
        return "provider_error"
    return "error" if error is None or isinstance(error, InternalError) else "refused"


def count(end: End, usage: Usage, times: Times) -> None:
    served = metrics.served(end.endpoint, end.provider)
    served.ended[end.outcome, end.status_code] += 1
    if end.provider:
        served.seconds.observe(times.ended - times.began)
        if times.first_byte:
            served.first_byte.observe(times.first_byte - times.began)
        served.tokens_input += usage.input
        served.tokens_output += usage.output


def traceparent(headers: Headers) -> str:
    """The client's, if it is one that we can read (W3C Trace Context, version 00); it goes to the collector alone."""
    given = [value for name, value in headers if name == b"traceparent"]
    return given[0].decode() if len(given) == 1 and _TRACEPARENT.fullmatch(given[0]) else ""


def milliseconds(start: float, end: float) -> int:
    return int((end - start) * 1000)
