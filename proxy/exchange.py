"""Owns one exchange: a client's request, its way to a provider and back, and its one row in the record.

The order is fixed: identity before any body byte, admission before the journal, the journal before the provider, the
end record before the bytes that complete the answer (docs/architecture.md, "The life of a request").
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache, partial

from accounts.ids import text_of, uuid7
from proxy import metrics, model_list, record, requests, views
from proxy.admission import admit
from proxy.authentication import Identity, authenticate
from proxy.candidates import candidates
from proxy.cycle import CYCLE, ClientGone, Cycle
from proxy.errors import (
    CLIENT_CLOSED_REQUEST,
    InternalError,
    ProxyError,
    Unavailable,
    UpstreamBroken,
    UpstreamTimeout,
)
from proxy.incoming import Body, Fields, Headers, Scope, address_of, check_head
from proxy.limits import Ask
from proxy.pipeline import Attempts, Outgoing, read_out, translate
from proxy.routing import UNKNOWN_MODEL, Route
from proxy.runtime import Runtime
from proxy.upload import Upload, is_form
from proxy.upstream import Response, Stream
from proxy.upstream import UpstreamError as ConnectionFailure
from proxy.wire import Call, Decoder, Usage, Wire
from proxy.wire.openai import USAGE, with_cost
from usage import pricing
from usage.journal import Begin, End, JournalFull

logger = logging.getLogger(__name__)

# A plain answer up to this size is sent only when it is there as a whole: a cut one becomes a clean error.
HOLD = 4 << 20
# What has to be translated is held as a whole, up to this size.
HOLD_AT_MOST = 64 << 20
LARGE_END = 16 << 10

JSON_BODY = (b"content-type", b"application/json")
STREAM_HEADERS: Headers = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


class Exchange:
    """Runs once. `stop` ends it from outside, whatever it waits for."""

    _cause = ""  # why it was stopped: client_gone, drained, deadline
    _endpoint: views.Endpoint | None = None
    _identity: Identity | None = None
    _ask: Ask | None = None
    _call: Call | None = None
    _route: Route | None = None
    _attempts: Attempts | None = None  # set: the journal has its begin
    _is_event_stream = False  # as its provider answered
    _decoder: Decoder | None = None
    _usage: Usage | None = None
    _cost: Decimal | None = None  # US dollars; known at the end
    _error: ProxyError | None = None
    _overhead = 0.0
    _first_byte_at = 0.0
    _status = 0  # as the client was sent it
    _complete = False
    _ended = False

    def __init__(self, runtime: Runtime, scope: Scope) -> None:
        self._runtime = runtime
        self._scope = scope
        self._cycle: Cycle = scope["extensions"][CYCLE]
        self._fields = Fields(scope["headers"])
        self._body = Body(runtime)
        self.began = time.monotonic()
        self._id = uuid7()
        self._request_id = text_of(self._id)
        self._dialect = views.dialect_of(scope["path"])
        self._headers: Headers = [(name, self._request_id.encode()) for name in self._dialect.request_id_headers]

    async def run(self) -> None:
        runtime = self._runtime
        runtime.exchanges.add(self)
        try:
            await self._serve()
        except ProxyError as error:
            await self._fail(error)
        except ClientGone:
            self._cause = self._cause or "client_gone"
            raise
        except asyncio.CancelledError:
            if not self._cause:  # by the server, not by us: no more awaits to rely on
                self._cause = "drained"
                raise
            await self._stopped()
        except Exception:
            logger.exception("exchange %s failed", self._request_id)
            await self._fail(InternalError("The proxy failed on this request. Its log has more, under the request id."))
        finally:
            self._end()
            self._body.release()
            runtime.exchanges.discard(self)

    def stop(self, cause: str) -> None:
        """Ends the exchange: `client_gone`, `drained` or `deadline`. Once it has ended this does nothing."""
        if not self._ended and not self._cause and self._cycle.task is not None:
            self._cause = cause
            self._cycle.task.cancel()

    async def _stopped(self) -> None:
        assert self._cycle.task is not None
        self._cycle.task.uncancel()
        if self._cause == "drained":
            await self._fail(Unavailable("The proxy is shutting down.", code="shutting_down", retryable=False))
        elif self._cause == "deadline":
            await self._fail(UpstreamTimeout("The answer took longer than the proxy allows in all."))

    # --- may it go on? -------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        scope, runtime = self._scope, self._runtime
        fields = self._fields
        check_head(runtime, fields)
        self._identity = await authenticate(runtime, fields, address_of(runtime, scope, fields))
        self._endpoint = endpoint = views.resolve(scope["path"], scope["method"], scope["query_string"])
        body: bytes | Upload
        if endpoint.max_form and is_form(fields):
            body = await Upload(self._body, self._cycle.receive, max_bytes=endpoint.max_form).begin(fields)
        else:
            body = await self._body.read(fields, self._cycle)
        arrived = time.monotonic()
        self._cycle.on_disconnect(self._left)
        refusal: ProxyError | None = None
        try:
            self._call = endpoint.decode(body) if isinstance(body, bytes) else requests.decode_form(body.model)
        except ProxyError as error:
            refusal = error  # counts as a request all the same
        await self._admit()
        if refusal is not None:
            raise refusal
        assert self._call is not None
        if not endpoint.wires:
            await self._list_models()
            return
        routes = candidates(self._identity.policy, self._call, endpoint)
        self._route = routes[0]
        if endpoint.local is not None and isinstance(body, bytes) and self._route.provider not in endpoint.wires:
            await self._send_whole(200, endpoint.local(body), JSON_BODY)
        else:
            await self._forward(endpoint, body, routes, arrived)

    def _left(self) -> None:
        self.stop("client_gone")

    async def _admit(self) -> None:
        assert self._identity is not None
        call = self._call
        tokens = call.tokens_input + call.tokens_output if call else 0
        admitted = await admit(self._runtime, self._identity, self._request_id, tokens)
        self._identity, self._ask = admitted.identity, admitted.ask
        self._headers += admitted.headers

    async def _list_models(self) -> None:
        assert self._identity is not None and self._call is not None
        anthropic = b"anthropic-version" in self._fields
        found = await model_list.models_of(self._runtime, self._identity.policy)
        if asked := self._call.model:
            name, model = model_list.one_of(found, asked)
            self._route = Route(model.provider, model.id)
            shown = model_list.page_of(name, model, anthropic=anthropic)
        else:
            self._route = Route("", "")
            shown = model_list.page(found, anthropic=anthropic)
        await self._send_whole(200, shown, JSON_BODY, *found.headers())

    # --- to the provider and back --------------------------------------------------------------------------------

    async def _forward(
        self, endpoint: views.Endpoint, body: bytes | Upload, routes: Sequence[Route], arrived: float
    ) -> None:
        call, identity = self._call, self._identity
        assert call is not None and identity is not None
        if call.fallbacks is not None and isinstance(body, bytes):
            body = requests.with_one_model(body, call.model)
        self._record_begin(endpoint, call, routes[0])
        self._attempts = Attempts(
            self._runtime,
            endpoint.wires,
            identity.policy.credentials,
            deadline=self.began + self._runtime.total_timeout,
        )
        try:
            response = await self._attempts.run(routes, partial(self._outgoing, endpoint, body, arrived))
        finally:
            self._route = self._attempts.route or routes[0]
        wire = endpoint.wires[self._route.provider]
        try:
            self._note_answer(response, wire)
            if isinstance(body, Upload):
                call.stream = self._is_event_stream  # a form is not read as far as that
            if call.stream and self._is_event_stream:
                await self._relay_stream(response, wire.decoder(call))
            elif endpoint.is_binary:
                await self._relay_as_it_comes(response, b"", wire)
            else:
                await self._relay_plain(response, wire)
        except ConnectionFailure as error:
            raise translate(error) from error
        finally:
            response.abort()

    def _outgoing(self, endpoint: views.Endpoint, body: bytes | Upload, arrived: float, route: Route) -> Outgoing:
        """The request for one model, in its provider's dialect. BadRequest names what that cannot honour."""
        call, identity, wire = self._call, self._identity, endpoint.wires[route.provider]
        assert call is not None and identity is not None
        cap = identity.policy.max_tokens if call.tokens_output else None  # of what generates
        taken = wire.request_headers
        headers = [] if taken.isdisjoint(self._fields) else [pair for pair in self._fields.pairs if pair[0] in taken]
        sent: bytes | Stream = b""
        if isinstance(body, Upload):
            sent = body.outgoing(route.model)
            headers.append((b"content-type", body.content_type))
        elif body:
            sent = wire.encode(body, call, route.model, cap)
            headers.append(JSON_BODY)
        target = wire.target(endpoint.name, route.model, call.stream)
        if not self._overhead:
            self._overhead = time.monotonic() - arrived
            metrics.overhead.observe(self._overhead)
        return Outgoing(endpoint.method.encode(), target, headers, sent)

    def _note_answer(self, response: Response, wire: Wire) -> None:
        fields = response.fields
        self._headers += [(name, fields[name]) for name in wire.response_headers.intersection(fields)]
        if fields.get(b"content-encoding", b"identity").lower() != b"identity":
            raise UpstreamBroken("The provider compressed its answer although it was asked not to.")
        self._is_event_stream = fields.get(b"content-type", b"").startswith(b"text/event-stream")

    async def _relay_plain(self, response: Response, wire: Wire) -> None:
        parts, size = [], 0
        while data := await response.read():
            self._first_byte_at = self._first_byte_at or time.monotonic()
            parts.append(data)
            if response.complete and not response.buffered:
                break  # as most answers do: there is no more to wait for
            size += len(data)
            if size > HOLD and wire.answer is None:
                await self._relay_as_it_comes(response, b"".join(parts), wire)
                return
            if size > HOLD_AT_MOST:
                raise UpstreamBroken("The provider's answer is too long to be translated.")
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        if wire.answer is None:
            self._usage = wire.usage(body)
        else:
            assert self._call is not None
            body, self._usage = wire.answer(body, self._call)
        await self._send_whole(response.status, body)

    async def _relay_as_it_comes(self, response: Response, data: bytes, wire: Wire) -> None:
        """Sound, or too large to hold: only its last piece waits for the record. Its usage stands at its end."""
        end, last = b"", False
        while not last:
            data = data or await response.read()
            self._first_byte_at = self._first_byte_at or time.monotonic()
            end = (end + data)[-LARGE_END:]
            begun, last = self._status != 0, response.complete
            if last:
                self._usage, self._complete, self._status = wire.usage(end), True, response.status
                self._end()
            if not begun:
                self._start(response.status, [])
            await self._send_body(data, last=last)
            data = b""

    async def _relay_stream(self, response: Response, decoder: Decoder) -> None:
        """The 200 is held until there is something to send: until then a failure still has its own status."""
        self._decoder = decoder
        assert self._call is not None
        tells_cost = self._endpoint is views.CHAT and self._call.include_usage
        cycle = self._cycle

        def pass_on(data: bytes) -> bool:
            """Within the callback of the provider's socket; whether that is enough for now."""
            if passed := decoder.feed(data):
                if tells_cost and passed.find(USAGE) >= 0:
                    passed = self._with_cost(passed, decoder)
                if not self._status:
                    self._first_byte_at = time.monotonic()
                    self._start(response.status, STREAM_HEADERS)
                cycle.write(passed)
            return decoder.complete or decoder.failure is not None or cycle.is_full

        while await response.pass_to(pass_on) and not decoder.complete and decoder.failure is None:
            await cycle.ready()
        if not decoder.complete and decoder.failure is None:
            decoder.flush()
        if decoder.failure is not None:
            raise decoder.failure
        if not decoder.complete:
            raise UpstreamBroken("The provider's stream ended before its end was said.")
        if not self._status:
            self._start(response.status, STREAM_HEADERS)
        self._complete = True
        self._end()
        final = self._with_cost(decoder.final, decoder) if tells_cost else decoder.final
        await self._send_body(final, last=True)
        await read_out(response)

    def _with_cost(self, events: bytes, decoder: Decoder) -> bytes:
        cost = self._price(decoder.usage, "provider") if decoder.usage else None
        return events if cost is None else with_cost(events, f"{cost:.8f}")

    # --- how it ends ---------------------------------------------------------------------------------------------

    def _start(self, status: int, extra: Headers) -> None:
        self._status = status
        headers = [*self._headers, *extra, *self._runtime.cors(self._fields.get(b"origin", b""))]
        if self._route is not None and self._route.provider:
            headers += served_by(*self._route, self._attempts.tried if self._attempts else 0)
        if self._attempts is not None and self._attempts.provider_request_id:
            headers.append((b"x-provider-request-id", self._attempts.provider_request_id))
        if self._cost is not None and self._error is None:  # of a plain answer: it has ended before it begins
            headers.append((b"x-aiproxy-cost", f"{self._cost:.8f}".encode()))
        self._cycle.start(status, headers)

    async def _send_whole(self, status: int, body: bytes, *extra: tuple[bytes, bytes]) -> None:
        """A complete answer, after its record."""
        self._complete, self._status = True, status
        self._end()
        self._start(status, [*extra, (b"content-length", b"%d" % len(body))])
        await self._send_body(body, last=True)

    async def _send_body(self, body: bytes, *, last: bool = False) -> None:
        if self._cycle.is_full:
            await self._cycle.ready()
        self._cycle.write(body, last=last)

    async def _fail(self, error: ProxyError) -> None:
        """Before the first byte: the error's own status. After it: an error event, and a close without an end."""
        self._error = error
        try:
            if self._status:
                self._end()
                if self._decoder is not None:
                    await self._send_body(self._dialect.error_event(error, self._request_id, self._decoder))
                return
            body = self._dialect.render(error, self._request_id)
            self._status = error.status
            self._end()
            self._headers = [pair for pair in self._headers if pair[0] != b"content-type"]
            head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *error.headers()]
            self._start(error.status, head)
            await self._send_body(body, last=True)
        except ClientGone:
            self._cause = self._cause or "client_gone"
            raise

    def _record_begin(self, endpoint: views.Endpoint, call: Call, found: Route) -> None:
        assert self._identity is not None
        journal, policy = self._runtime.journal, self._identity.policy
        begin = Begin(
            id=self._id,
            user_id=policy.user_id,
            proxy_key_id=policy.proxy_key_id,
            endpoint=endpoint.name,
            model=found.model,
            provider=found.provider,
            api_key_id=None,
            streamed=call.stream,
        )
        try:
            journal.begin(begin)
        except (JournalFull, OSError) as error:
            raise Unavailable(
                "The proxy cannot record requests now, so it takes none. Try again.",
                code="record_unavailable",
                retry_after_ms=5000,
            ) from error

    def _end(self) -> None:
        """Exactly once: the actual tokens replace the estimate, the slot is freed, the row is written."""
        if self._ended:
            return
        self._ended = True
        if self._identity is None:
            metrics.refused[(str(self._status or CLIENT_CLOSED_REQUEST),)] += 1
            return
        usage, source = self._tokens()
        self._cost = self._price(usage, source)
        if self._ask is not None:
            self._runtime.limiter.settle(self._ask, usage.total)
        times = record.Times(self.began, self._first_byte_at, time.monotonic())
        end = self._end_record(usage, source, times)
        if self._runtime.traces:
            end.traceparent = record.traceparent(self._scope["headers"])
        record.count(end, usage, times)
        try:
            if self._attempts is not None or self._runtime.journal.room():
                self._runtime.journal.end(end)
        except (JournalFull, OSError):
            logger.exception("exchange %s is not recorded", self._request_id)

    def _tokens(self) -> tuple[Usage, str]:
        """As the provider counted; else our estimate if a provider may have worked on it; else nothing."""
        usage = self._usage or (self._decoder.usage if self._decoder else None)
        if usage is not None and usage.is_count():
            return usage, "provider"
        if self._call is None or not self._may_be_billed():
            return Usage(), "none"
        if self._endpoint is not None and not self._endpoint.is_estimated:
            return Usage(), "none"
        seen = self._decoder.chunks if self._decoder else 0
        return Usage(self._call.tokens_input, seen, self._call.tokens_input + seen), "estimated"

    def _may_be_billed(self) -> bool:
        refused = self._error is not None and self._error.complete_answer and self._decoder is None
        return self._attempts is not None and self._attempts.may_be_billed and not refused

    def _price(self, usage: Usage, source: str) -> Decimal | None:
        """US dollars; None: unknown. Of estimates those of streams count only: of a plain answer we know too little."""
        found, endpoint = self._route, self._endpoint
        nothing_used = source == "provider" and not usage.total
        if found is None or endpoint is None or endpoint.method == "GET" or nothing_used or not self._may_be_billed():
            return Decimal(0)
        is_known = source == "provider" or (source == "estimated" and self._decoder is not None)
        credential = self._attempts.credential if self._attempts else None
        address = credential.context.base_url if credential else ""
        return pricing.cost(found.provider, found.model, usage if is_known else None, address)

    def _end_record(self, usage: Usage, source: str, times: record.Times) -> End:
        assert self._identity is not None
        policy, call, found = self._identity.policy, self._call, self._route
        credential = self._attempts.credential if self._attempts else None
        outcome = record.outcome(complete=self._complete, cause=self._cause, error=self._error)
        status = self._status or CLIENT_CLOSED_REQUEST
        return End(
            id=self._id,
            user_id=policy.user_id,
            proxy_key_id=policy.proxy_key_id,
            endpoint=self._endpoint.name if self._endpoint else "",
            model=found.model if found else UNKNOWN_MODEL,
            provider=found.provider if found else "",
            api_key_id=credential.api_key_id if credential else None,
            streamed=bool(call and call.stream),
            outcome=outcome,
            status_code=status,
            error_message=self._error.message if self._error else "",
            tokens_input=usage.input,
            tokens_output=usage.output,
            tokens_total=usage.total,
            tokens_cached=usage.cached,
            tokens_reasoning=usage.reasoning,
            usage_source=source,
            cost=self._cost,
            latency_ms=record.milliseconds(times.began, times.ended),
            ttft_ms=record.milliseconds(times.began, times.first_byte) if times.first_byte else None,
            overhead_ms=round(self._overhead * 1000, 3) if self._overhead else None,
            provider_request_id=self._attempts.provider_request_id.decode("latin-1") if self._attempts else "",
            attempts=self._attempts.several(outcome, status) if self._attempts else None,
        )


@lru_cache(maxsize=4096)
def served_by(provider: str, model: str, attempts: int) -> Headers:
    """Which model at which provider the answer, or the error, is of; a name that a header cannot hold is escaped."""
    return [
        (b"x-aiproxy-provider", provider.encode()),
        (b"x-aiproxy-model", model.encode("ascii", "backslashreplace")),
        (b"x-aiproxy-attempts", b"%d" % attempts),
    ]
