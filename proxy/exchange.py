"""Owns one exchange: a client's request, its way to a provider and back, and its one row in the record.

The order is fixed: identity before any body byte, admission before the journal, the journal before the provider, the
end record before the bytes that complete the answer (docs/architecture.md, "The life of a request").
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from functools import lru_cache

from accounts.ids import new_id
from proxy import metrics, model_list, record, requests, views
from proxy.admission import admit
from proxy.authentication import authenticate, recognise
from proxy.candidates import candidates
from proxy.cycle import ClientGone, Cycle, lines
from proxy.errors import (
    CLIENT_CLOSED_REQUEST,
    BadRequest,
    InternalError,
    ProxyError,
    Unavailable,
    UpstreamBroken,
    UpstreamTimeout,
)
from proxy.incoming import Body, Caller, Headers, check_head
from proxy.lanes import JSON_BODY, Lane
from proxy.limits import Ask
from proxy.pipeline import Attempts, Outgoing, read_out, translate
from proxy.policy import Policy
from proxy.routing import Route
from proxy.runtime import Runtime
from proxy.upload import Upload, is_form
from proxy.upstream import Response, Stream
from proxy.upstream import UpstreamError as ConnectionFailure
from proxy.wire import Call, Decoder, Usage, Wire
from proxy.wire.openai import USAGE, with_cost
from usage.journal import JournalFull

logger = logging.getLogger(__name__)

# A plain answer up to this size is sent only when it is there as a whole: a cut one becomes a clean error.
HOLD = 4 << 20
# What has to be translated is held as a whole, up to this size.
HOLD_AT_MOST = 64 << 20
LARGE_END = 16 << 10

_JSON_FIELD = lines([JSON_BODY])
_STREAM_FIELDS = lines([(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")])


class Exchange:
    """Runs once. `stop` ends it from outside, whatever it waits for. What the record reads of it is public."""

    __slots__ = (
        "_arrived",
        "_ask",
        "_body",
        "_caller",
        "_cost",
        "_cycle",
        "_ended",
        "_is_event_stream",
        "_limits",
        "_passed",
        "_policy",
        "_runtime",
        "_sent",
        "attempts",
        "began",
        "call",
        "cause",
        "complete",
        "decoder",
        "endpoint",
        "error",
        "first_byte_at",
        "id",
        "overhead",
        "route",
        "status",
        "usage",
    )

    def __init__(self, runtime: Runtime, cycle: Cycle) -> None:
        self._runtime = runtime
        self._cycle = cycle
        self._caller: Caller = cycle.head.notes or self._read_head(cycle)
        self._body = Body(runtime)
        self.began = time.monotonic()
        self.id = new_id()
        self.cause = ""  # why it was stopped: client_gone, drained, deadline
        self.endpoint: views.Endpoint | None = None
        self.call: Call | None = None
        self.route: Route | None = None  # the model whose the answer is, or the failure
        self.attempts: Attempts | None = None  # set: the journal has its begin
        self.decoder: Decoder | None = None
        self.usage: Usage | None = None
        self.error: ProxyError | None = None
        self.overhead = 0.0  # seconds from the request's last byte to the call
        self.first_byte_at = 0.0  # monotonic seconds
        self.status = 0  # as the client was sent it
        self.complete = False
        self._policy: Policy | None = None
        self._ask: Ask | None = None
        self._sent: bytes | Upload = b""  # the request's body
        self._arrived = self.began  # when all of that was here
        self._is_event_stream = False  # as its provider answered
        self._limits = b""  # what the answer's head says of them
        self._passed: Headers = []  # what of the provider's head the client is told
        self._cost: str | None = None  # US dollars; known at the end
        self._ended = False

    def _read_head(self, cycle: Cycle) -> Caller:
        caller = cycle.head.notes = Caller(self._runtime, cycle.head.scope)
        return caller

    async def run(self) -> None:
        runtime = self._runtime
        runtime.exchanges.add(self)
        try:
            await self._serve()
        except ProxyError as error:
            await self._fail(error)
        except ClientGone:
            self.cause = self.cause or "client_gone"
            raise
        except asyncio.CancelledError:
            if not self.cause:  # by the server, not by us: no more awaits to rely on
                self.cause = "drained"
                raise
            await self._stopped()
        except Exception:
            logger.exception("exchange %s failed", self.id.decode())
            await self._fail(InternalError("The proxy failed on this request. Its log has more, under the request id."))
        finally:
            self._end()
            self._body.release()
            runtime.exchanges.discard(self)

    def stop(self, cause: str) -> None:
        """Ends the exchange: `client_gone`, `drained` or `deadline`. Once it has ended this does nothing."""
        if not self._ended and not self.cause and self._cycle.task is not None:
            self.cause = cause
            self._cycle.task.cancel()

    async def _stopped(self) -> None:
        assert self._cycle.task is not None
        self._cycle.task.uncancel()
        if self.cause == "drained":
            await self._fail(Unavailable("The proxy is shutting down.", code="shutting_down", retryable=False))
        elif self.cause == "deadline":
            await self._fail(UpstreamTimeout("The answer took longer than the proxy allows in all."))

    # --- may it go on? -------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        runtime, caller, cycle = self._runtime, self._caller, self._cycle
        if cycle.flow.write_paused:  # it has not taken the answer before this one
            await cycle.ready()
        if caller.is_suspect:
            check_head(runtime, caller.fields)
        policy = self._policy = recognise(runtime, caller) or await authenticate(runtime, caller)
        self.endpoint = endpoint = caller.endpoint or caller.resolve()
        body: bytes | Upload | None
        if endpoint.max_form and is_form(caller.fields):
            body = await Upload(self._body, cycle, max_bytes=endpoint.max_form).begin(caller.fields)
            self._arrived = time.monotonic()
        else:
            body = self._body.take(cycle)
            if body is None:
                body = await self._body.read(cycle)
                self._arrived = time.monotonic()
        self._sent = body
        cycle.on_disconnect(self._left)
        refusal: ProxyError | None = None
        try:
            self.call = endpoint.decode(body) if isinstance(body, bytes) else requests.decode_form(body.model)
        except ProxyError as error:
            refusal = error  # counts as a request all the same
        tokens = self.call.tokens_input + self.call.tokens_output if self.call is not None else 0
        admitted = await admit(runtime, caller, policy, self.id, tokens)
        policy, self._ask, self._limits = admitted
        self._policy = policy
        if refusal is not None:
            raise refusal
        assert self.call is not None
        if not endpoint.wires:
            await self._list_models(self.call, policy)
            return
        lanes = candidates(policy, self.call, endpoint)
        self.route = lanes[0].route
        if endpoint.local is not None and isinstance(body, bytes) and lanes[0].wire is None:
            self._send_whole(200, endpoint.local(body), _JSON_FIELD)
        else:
            await self._forward(endpoint, self.call, policy, lanes)

    def _left(self) -> None:
        self.stop("client_gone")

    async def _list_models(self, call: Call, policy: Policy) -> None:
        anthropic = b"anthropic-version" in self._caller.fields
        found = await model_list.models_of(self._runtime, policy)
        if call.model:
            name, model = model_list.one_of(found, call.model)
            self.route = Route(model.provider, model.id)
            shown = model_list.page_of(name, model, anthropic=anthropic)
        else:
            self.route = Route("", "")
            shown = model_list.page(found, anthropic=anthropic)
        self._send_whole(200, shown, _JSON_FIELD + lines(found.headers()))

    # --- to the provider and back --------------------------------------------------------------------------------

    async def _forward(self, endpoint: views.Endpoint, call: Call, policy: Policy, lanes: Sequence[Lane]) -> None:
        if call.fallbacks is not None and isinstance(self._sent, bytes):
            self._sent = requests.with_one_model(self._sent, call.model)
        self._record_begin(lanes[0], policy, stream=call.stream)
        attempts = self.attempts = Attempts(self._runtime, self.began + self._runtime.total_timeout)
        try:
            response = await attempts.run(lanes, self._outgoing)
        finally:
            if attempts.lane is not None:
                self.route = attempts.lane.route
        assert attempts.lane is not None and attempts.lane.wire is not None
        wire = attempts.lane.wire
        try:
            self._note_answer(response, wire)
            if isinstance(self._sent, Upload):
                call.stream = self._is_event_stream  # a form is not read as far as that
            if call.stream and self._is_event_stream:
                await self._relay_stream(response, wire.decoder(call), call)
            elif endpoint.is_binary:
                await self._relay_as_it_comes(response, b"", wire)
            elif (body := response.whole()) is not None:  # as most answers are, when their head is here
                self.first_byte_at = time.monotonic()
                self._relay_whole(response, body, wire, call)
            else:
                await self._relay_plain(response, wire, call)
        except ConnectionFailure as error:
            raise translate(error) from error
        except ProxyError as error:
            attempts.mask(error)
            raise
        finally:
            response.abort()

    def _outgoing(self, lane: Lane) -> Outgoing:
        """The request for one model, in its provider's format. BadRequest names what that cannot honour."""
        call, policy, wire, body = self.call, self._policy, lane.wire, self._sent
        assert call is not None and policy is not None and wire is not None
        headers = self._caller.fields.only(wire.request_headers)
        sent: bytes | Stream = b""
        if isinstance(body, Upload):
            sent = body.outgoing(lane.route.model)
            headers = [*headers, (b"content-type", body.content_type)]
        elif body:
            cap = policy.max_tokens if call.tokens_output else None  # of what generates
            try:
                sent = wire.encode(body, call, lane.route.model, cap)
            except RecursionError as error:  # what could be read may still be too deep to be written
                raise BadRequest("The body is nested too deeply.", code="invalid_json") from error
        if not self.overhead:
            self.overhead = time.monotonic() - self._arrived
            metrics.overhead.values.append(self.overhead)
        return Outgoing(headers, sent, call.stream, type(body) is bytes and body != b"")

    def _note_answer(self, response: Response, wire: Wire) -> None:
        fields = response.fields
        self._passed = [(name, fields[name]) for name in wire.response_headers.intersection(fields)]
        if fields.get(b"content-encoding", b"identity").lower() != b"identity":
            raise UpstreamBroken("The provider compressed its answer although it was asked not to.")
        self._is_event_stream = fields.get(b"content-type", b"").startswith(b"text/event-stream")

    async def _relay_plain(self, response: Response, wire: Wire, call: Call) -> None:
        parts, size = [], 0
        while data := await response.read():
            self.first_byte_at = self.first_byte_at or time.monotonic()
            parts.append(data)
            size += len(data)
            if size > HOLD and wire.answer is None:
                await self._relay_as_it_comes(response, b"".join(parts), wire)
                return
            if size > HOLD_AT_MOST:
                raise UpstreamBroken("The provider's answer is too long to be translated.")
        self._relay_whole(response, b"".join(parts), wire, call)

    def _relay_whole(self, response: Response, body: bytes, wire: Wire, call: Call) -> None:
        if wire.answer is None:
            self.usage = wire.usage(body)
        else:
            body, self.usage = wire.answer(body, call)
        self._send_whole(response.status, body)

    async def _relay_as_it_comes(self, response: Response, data: bytes, wire: Wire) -> None:
        """Sound, or too large to hold: only its last piece waits for the record. Its usage stands at its end."""
        end, last = b"", False
        while not last:
            data = data or await response.read()
            self.first_byte_at = self.first_byte_at or time.monotonic()
            end = (end + data)[-LARGE_END:]
            begun, last = self.status != 0, response.complete
            if last:
                self.usage, self.complete, self.status = wire.usage(end), True, response.status
                self._end()
            if not begun:
                self._start(response.status)
            await self._send_body(data, last=last)
            data = b""

    async def _relay_stream(self, response: Response, decoder: Decoder, call: Call) -> None:
        """The 200 is held until there is something to send: until then a failure still has its own status."""
        self.decoder = decoder
        tells_cost = self.endpoint is views.CHAT and call.include_usage
        cycle = self._cycle

        def pass_on(data: bytes) -> bool:
            """Within the callback of the provider's socket; whether that is enough for now."""
            if passed := decoder.feed(data):
                if tells_cost and passed.find(USAGE) >= 0:
                    passed = self._with_cost(passed, decoder)
                if not self.status:
                    self.first_byte_at = time.monotonic()
                    self._start(response.status, _STREAM_FIELDS)
                cycle.write(passed)
            return decoder.complete or decoder.failure is not None or cycle.flow.write_paused

        while await response.pass_to(pass_on) and not decoder.complete and decoder.failure is None:
            await cycle.ready()
        if not decoder.complete and decoder.failure is None:
            decoder.flush()
        if decoder.failure is not None:
            raise decoder.failure
        if not decoder.complete:
            raise UpstreamBroken("The provider's stream ended before its end was said.")
        if not self.status:
            self._start(response.status, _STREAM_FIELDS)
        self.complete = True
        self._end()
        final = self._with_cost(decoder.final, decoder) if tells_cost else decoder.final
        await self._send_body(final, last=True)
        await read_out(response)

    def _with_cost(self, events: bytes, decoder: Decoder) -> bytes:
        cost = record.cost_of(self, decoder.usage, "provider") if decoder.usage else None
        return events if cost is None else with_cost(events, cost)

    # --- how it ends ---------------------------------------------------------------------------------------------

    def _start(self, status: int, fields: bytes = b"") -> None:
        self.status = status
        self._cycle.begin(status, self._with_fields(fields))

    def _with_fields(self, fields: bytes) -> bytes:
        """The lines of the answer's head: these, and what all answers say."""
        attempts, route, passed, caller = self.attempts, self.route, self._passed, self._caller
        if attempts is not None and attempts.provider_request_id:
            passed = [*passed, (b"x-provider-request-id", attempts.provider_request_id)]
        ids = caller.id_fields.replace(b"*", self.id)
        served = cost = b""
        if route is not None and route.provider:
            served = served_by(route, attempts.tried if attempts is not None else 0)
        if self._cost is not None and self.error is None:  # of a plain answer: it has ended before it begins
            cost = f"x-aiproxy-cost: {self._cost}\r\n".encode()
        return b"".join((ids, self._limits, fields, lines(passed), caller.cors, served, cost))

    def _send_whole(self, status: int, body: bytes, fields: bytes = b"") -> None:
        """A complete answer, after its record."""
        self.complete, self.status = True, status
        self._end()
        self._cycle.answer(status, self._with_fields(fields), body)

    async def _send_body(self, body: bytes, *, last: bool = False) -> None:
        if self._cycle.flow.write_paused:
            await self._cycle.ready()
        self._cycle.write(body, last=last)

    async def _fail(self, error: ProxyError) -> None:
        """Before the first byte: the error's own status. After it: an error event, and a close without an end."""
        self.error = error
        forget_frames(error)
        dialect = self._caller.dialect
        try:
            if self.status:
                self._end()
                if self.decoder is not None:
                    await self._send_body(dialect.error_event(error, self.id.decode(), self.decoder))
                return
            body = dialect.render(error, self.id.decode())
            self.status = error.status
            self._end()
            self._passed = [pair for pair in self._passed if pair[0] != b"content-type"]
            fields = self._with_fields(b"".join((_JSON_FIELD, lines(error.headers()), error.extra_fields)))
            if self._cycle.flow.write_paused:
                await self._cycle.ready()
            self._cycle.answer(error.status, fields, body)
        except ClientGone:
            self.cause = self.cause or "client_gone"
            raise

    def _record_begin(self, lane: Lane, policy: Policy, *, stream: bool) -> None:
        begin = lane.records(policy, None, stream=stream).begin(self.id)
        try:
            self._runtime.journal.write_begin(self.id, begin)
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
        runtime, policy = self._runtime, self._policy
        if policy is None:
            metrics.refused[(str(self.status or CLIENT_CLOSED_REQUEST),)] += 1
            return
        usage, source = record.tokens_of(self)
        self._cost = record.cost_of(self, usage, source)
        if self._ask is not None:
            runtime.limiter.settle(self._ask, usage.total)
        now = time.monotonic()
        ending = record.ending_of(self, usage, source, self._cost, now)
        if runtime.traces:
            ending.traceparent = record.traceparent(self._caller.fields.pairs)
        record.count(self, ending, now)
        try:
            if self.attempts is not None or runtime.journal.room():
                end = record.template_of(self, policy).end(self.id, ending)
                runtime.journal.write_end(self.id, end)
        except (JournalFull, OSError):
            logger.exception("exchange %s is not recorded", self.id.decode())


def forget_frames(error: BaseException | None) -> None:
    """Who keeps an error keeps its traceback, whose frames know us and the request's body: no cycle, no collector."""
    while error is not None:
        error.__traceback__ = None
        error = error.__context__


@lru_cache(maxsize=4096)
def served_by(route: Route, attempts: int) -> bytes:
    """Which model at which provider the answer, or the error, is of; a name that a header cannot hold is escaped."""
    return lines(
        [
            (b"x-aiproxy-provider", route.provider.encode()),
            (b"x-aiproxy-model", route.model.encode("ascii", "backslashreplace")),
            (b"x-aiproxy-attempts", b"%d" % attempts),
        ]
    )
