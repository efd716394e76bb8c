"""Owns what is written down of an exchange: its begin, its end, its cost, its metrics. Builds them; the journal keeps
them."""

import re
from typing import TYPE_CHECKING
from uuid import UUID

from accounts.ids import uuid7
from proxy import metrics
from proxy.errors import CLIENT_CLOSED_REQUEST, InternalError, ProxyError, UpstreamError, UpstreamTimeout
from proxy.incoming import Headers
from proxy.policy import Policy
from proxy.routing import UNKNOWN_MODEL, Route
from proxy.wire import Usage
from usage import pricing
from usage.journal import Begin, Ending, Template

if TYPE_CHECKING:
    from proxy.exchange import Exchange

_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_NOTHING = Usage()
_NO_ROUTE = Route("", UNKNOWN_MODEL)


def begin_of(policy: Policy, endpoint: str, route: Route, api_key_id: UUID | None = None, *, stream: bool) -> Begin:
    """Of any exchange: its id is one that none has."""
    return Begin(
        uuid7(), policy.user_id, policy.proxy_key_id, endpoint, route.model, route.provider, api_key_id, stream
    )


def template_of(exchange: "Exchange", policy: Policy) -> Template:
    """What the record of its end begins with."""
    attempts, endpoint = exchange.attempts, exchange.endpoint
    stream = exchange.call is not None and exchange.call.stream
    if attempts is not None and attempts.lane is not None:
        return attempts.lane.records(policy, attempts.credential, stream=stream)
    name = endpoint.name if endpoint is not None else ""
    return Template(begin_of(policy, name, exchange.route or _NO_ROUTE, stream=stream))


def ending_of(exchange: "Exchange", usage: Usage, source: str, cost: str | None, now: float) -> Ending:
    """As the exchange stands `now`, which is how it ends. In the order of the fields: to name them costs seven times as
    much."""
    attempts, error, began, first_byte = exchange.attempts, exchange.error, exchange.began, exchange.first_byte_at
    result = "ok" if exchange.complete else outcome(exchange.cause, error)
    status = exchange.status or CLIENT_CLOSED_REQUEST
    provider_request_id, several = "", None
    if attempts is not None:
        provider_request_id = attempts.provider_request_id.decode("latin-1")
        several = attempts.several(result, status)
    return Ending(
        result,
        status,
        error.message if error is not None else "",
        usage.input,
        usage.output,
        usage.total,
        usage.cached,
        usage.reasoning,
        source,
        cost,
        int((now - began) * 1000),
        int((first_byte - began) * 1000) if first_byte else None,
        int(exchange.overhead * 1_000_000) / 1000 if exchange.overhead else None,
        provider_request_id,
        "",
        several,
    )


def outcome(cause: str, error: ProxyError | None) -> str:
    """One of usage.models.Outcome, of what has not come to its end; `cause` is why it was stopped from outside."""
    if cause in {"client_gone", "drained"}:
        return cause
    if isinstance(error, UpstreamTimeout):
        return "timeout"
    if isinstance(error, UpstreamError):
        return "provider_error"
    return "error" if error is None or isinstance(error, InternalError) else "refused"


def tokens_of(exchange: "Exchange") -> tuple[Usage, str]:
    """As the provider counted; else our estimate if a provider may have worked on it; else nothing."""
    decoder, call = exchange.decoder, exchange.call
    usage = exchange.usage or (decoder.usage if decoder is not None else None)
    if usage is not None and usage.is_count():
        return usage, "provider"
    if call is None or not may_be_billed(exchange):
        return _NOTHING, "none"
    if exchange.endpoint is not None and not exchange.endpoint.is_estimated:
        return _NOTHING, "none"
    seen = decoder.chunks if decoder is not None else 0
    return Usage(call.tokens_input, seen, call.tokens_input + seen), "estimated"


def may_be_billed(exchange: "Exchange") -> bool:
    error, attempts = exchange.error, exchange.attempts
    refused = error is not None and error.complete_answer and exchange.decoder is None
    return attempts is not None and attempts.may_be_billed and not refused


def cost_of(exchange: "Exchange", usage: Usage, source: str) -> str | None:
    """US dollars to eight decimals; None: unknown. Of estimates those of streams count only: of a plain answer we know
    too little."""
    found, endpoint, attempts = exchange.route, exchange.endpoint, exchange.attempts
    nothing_used = source == "provider" and not usage.total
    if found is None or endpoint is None or endpoint.is_free or nothing_used or not may_be_billed(exchange):
        return pricing.NOTHING
    is_known = source == "provider" or (source == "estimated" and exchange.decoder is not None)
    credential = attempts.credential if attempts is not None else None
    address = credential.context.base_url if credential is not None else ""
    return pricing.cost(found.provider, found.model, usage if is_known else None, address)


def count(exchange: "Exchange", ending: Ending, now: float) -> None:
    """Adds an ended exchange to the metrics."""
    endpoint, provider = exchange.endpoint, (exchange.route or _NO_ROUTE).provider
    served = metrics.served(endpoint.name if endpoint is not None else "", provider)
    served.ended[ending.outcome, ending.status_code] += 1
    if provider:
        served.seconds.values.append(now - exchange.began)
        if exchange.first_byte_at:
            served.first_byte.values.append(exchange.first_byte_at - exchange.began)
        served.tokens_input += ending.tokens_input
        served.tokens_output += ending.tokens_output


def traceparent(headers: Headers) -> str:
    """The client's, if it is one that we can read (W3C Trace Context, version 00); it goes to the collector alone."""
    given = [value for name, value in headers if name == b"traceparent"]
    return given[0].decode() if len(given) == 1 and _TRACEPARENT.fullmatch(given[0]) else ""
