"""Owns the attempts at providers: which model and stored key, what may be tried again, and when never to.

Everything here happens before the client's first byte. A request that may have reached a provider is sent again only
after a complete answer that says it was not served: with another key, for another model, or once more after the short
wait that every provider asked for.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from proxy import metrics
from proxy.breaker import Entered
from proxy.errors import (
    BadRequest,
    BreakerOpen,
    ProviderKeyMissing,
    ProviderKeyRejected,
    ProxyError,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.lanes import Lane
from proxy.policy import Credential
from proxy.runtime import Runtime
from proxy.upstream import (
    ConnectFailed,
    ConnectTimeout,
    FirstByteTimeout,
    IdleTimeout,
    Line,
    Origin,
    Response,
    Stream,
    TLSFailed,
    TLSTimeout,
    UpstreamError,
    WriteTimeout,
)
from usage.journal import Attempt
from vault.crypto import Unsealable
from vault.providers import PROVIDERS

logger = logging.getLogger(__name__)

# Complete answers after which the next key is asked: this one is refused, out of money, or over its limit.
NEXT_KEY = frozenset({401, 402, 429, 503, 529})
CONNECT_TRIES = 3
MAX_ERROR_BODY = 64 << 10
# Attempts that a row tells of: the first ones, and the last.
MOST_TOLD = 16
_NOWHERE: frozenset[Origin] = frozenset()


class Outgoing(msgspec.Struct):
    """What one request to a provider says on its own: not its credential, and not what all of its lane say."""

    headers: Sequence[tuple[bytes, bytes]]
    body: bytes | Stream  # a stream can be sent once
    stream: bool = False
    is_json: bool = False


Prepare = Callable[[Lane], Outgoing]


class Attempts:
    """Tries models in order, and the keys of each one's provider; says how far that came."""

    __slots__ = (
        "_deadline",
        "_failure",
        "_runtime",
        "_since",
        "_trail",
        "_unreachable",
        "_waits",
        "credential",
        "lane",
        "made",
        "may_be_billed",
        "provider_request_id",
        "tried",
    )

    def __init__(self, runtime: Runtime, deadline: float) -> None:
        """`deadline` is in monotonic seconds."""
        self._runtime = runtime
        self._deadline = deadline
        self._failure: ProxyError | None = None
        self._trail: Sequence[Attempt] = ()  # what has come to nothing
        self._since = 0.0  # when the attempt under way began, monotonic seconds; 0: there is none
        self._waits: Sequence[int | None] = ()  # that providers asked for in this round, ms; None: one failed otherwise
        self._unreachable: frozenset[Origin] = _NOWHERE
        self.lane: Lane | None = None  # whose the answer is, or the failure
        self.credential: Credential | None = None  # the one that was tried last
        self.tried = 0  # keys, also those whose provider could not be reached
        self.made = 0  # requests that may have reached a provider
        self.may_be_billed = False
        self.provider_request_id = b""  # of the last attempt's answer

    async def run(self, lanes: Sequence[Lane], prepare: Prepare) -> Response:
        """The first answer that is nobody else's turn. ProxyError, mapped for the client, when there is none.

        `prepare` encodes the request for one model, or raises BadRequest."""
        while True:
            for lane in lanes:
                if not lane.credentials:
                    self._pass_over(lane, _key_missing(lane))
                    continue
                try:
                    outgoing = prepare(lane)
                except BadRequest as error:
                    self.credential, self.provider_request_id = None, b""  # nobody was asked
                    self._fail(lane, error)
                    continue
                for credential in lane.credentials:
                    if (response := await self._try(lane, credential, outgoing)) is not None:
                        return response
            wait = self._worth_waiting()
            if not wait:
                assert self._failure is not None
                raise self._final(self._failure)
            await asyncio.sleep(wait)
            self._deadline = 0.0  # once
            self._waits = ()

    async def _try(self, lane: Lane, credential: Credential, outgoing: Outgoing) -> Response | None:
        """None when it is the next one's turn; ProxyError when it is nobody's."""
        runtime = self._runtime
        line = lane.line(runtime, credential, stream=outgoing.stream, is_json=outgoing.is_json)
        if line.origin in self._unreachable:
            return None
        entered = runtime.breaker.enter(credential.api_key_id)
        if entered == "open":
            self._pass_over(lane, self._resting(lane, credential), credential)
            return None
        self.tried += 1
        self.lane, self.credential, self.provider_request_id = lane, credential, b""
        self._since = time.monotonic()
        alive = None
        try:
            response = runtime.pool.ask_at_once(
                line, self._headers(credential, outgoing), outgoing.body, runtime.timeouts
            )
            if response is not None:
                self.made += 1
                self.may_be_billed = True
                await response.arrive()
            else:
                response = await self._connected(line, credential, outgoing)
            alive = response.status < 500
        except Unsealable:
            logger.error("api key %s does not open: check the master keys", credential.api_key_id)
            self._fail(lane, ProviderKeyRejected("The stored API key cannot be opened. Store it again."))
            return None
        except UpstreamError as error:
            alive = False
            if error.request_sent:
                metrics.attempts[lane.provider, type(error).__name__] += 1
                raise self._final(translate(error)) from error
            self._unreachable |= {line.origin}
            self._fail(lane, translate(error))
            return None
        finally:
            self._leave(credential, entered, alive)
        self.provider_request_id = request_id_of(response.fields)
        if response.status < 300:
            return response
        await self._refused(response, outgoing)
        return None

    async def _refused(self, response: Response, outgoing: Outgoing) -> None:
        """Raises unless the provider says that it did not serve the request, and another key or model may be asked:
        not with a body that has gone out as it came."""
        assert self.lane is not None
        failure = await self._refusal(response)
        not_served = response.status in NEXT_KEY or failure.key_refused
        if not not_served or isinstance(outgoing.body, Stream):
            raise self._final(failure)
        may_wait = failure.status == 429 and failure.retryable is not False
        self._fail(self.lane, failure, wait=failure.retry_after_ms if may_wait else None)

    def _fail(self, lane: Lane, failure: ProxyError, *, wait: int | None = None) -> None:
        """What the client is told if nobody after this one serves the request."""
        self.lane, self._failure = lane, failure
        self._note(lane, failure.code or failure.type, failure.status)
        if not isinstance(failure, BadRequest):
            self._waits = [*self._waits, wait]

    def _pass_over(self, lane: Lane, failure: ProxyError, credential: Credential | None = None) -> None:
        """The same for a key or model that is not asked: it tells less than the failure of one that was."""
        self._note(lane, failure.code or failure.type, failure.status, credential)
        if not self.tried and not isinstance(self._failure, BreakerOpen):
            self.lane, self._failure = lane, failure

    def _note(self, lane: Lane, result: str, status: int, credential: Credential | None = None) -> None:
        """One model or key has come to nothing, `credential` without being asked."""
        if self._since:
            credential = self.credential
        ms = int((time.monotonic() - self._since) * 1000) if self._since else 0
        self._since = 0.0
        key = credential.api_key_id if credential else None
        attempt = Attempt(lane.provider, lane.route.model, key, result, status, ms)
        self._trail = [*self._trail[: MOST_TOLD - 1], attempt]

    def several(self, outcome: str, status: int) -> list[Attempt] | None:
        """All of them, the last of which has come to this; None if there was but one."""
        if self._trail and self._since and self.lane is not None:
            self._note(self.lane, outcome, status)
        return list(self._trail) if len(self._trail) > 1 else None

    def _final(self, failure: ProxyError) -> ProxyError:
        if self.made > 1 and failure.status >= 500:
            failure.retryable = False  # one owner of retries: this one has tried
        return failure

    def _worth_waiting(self) -> float:
        """Seconds until it is everybody's time again, if all who were asked said when and that is soon; else 0."""
        waits = [wait for wait in self._waits if wait is not None]
        if not waits or len(waits) < len(self._waits):
            return 0
        wait = max(waits) / 1000
        in_time = wait <= self._runtime.retry_after_wait and time.monotonic() + wait < self._deadline
        return wait if in_time else 0

    def _resting(self, lane: Lane, credential: Credential) -> BreakerOpen:
        metrics.attempts[lane.provider, "breaker_open"] += 1
        wait = max(1000, int(1000 * self._runtime.breaker.wait(credential.api_key_id)))
        return BreakerOpen(
            f"{PROVIDERS[lane.provider].title} has failed too often with the stored key; it is left alone for "
            f"{-(-wait // 1000)}s.",
            retry_after_ms=wait,
        )

    def _leave(self, credential: Credential, entered: Entered, alive: bool | None) -> None:
        change = self._runtime.breaker.leave(credential.api_key_id, entered, alive=alive)
        if change is not None:
            provider = credential.context.provider
            metrics.breaker[provider, change] += 1
            logger.warning("the breaker of api key %s (%s) has %s", credential.api_key_id, provider, change)

    def _headers(self, credential: Credential, outgoing: Outgoing) -> list[tuple[bytes, bytes]]:
        """Where a stored key is in the clear, and only until its header is written."""
        secret = credential.secret(self._runtime.keyring)
        provider = PROVIDERS[credential.context.provider]
        headers = [*provider.credential_headers(secret), *outgoing.headers]
        if provider.version_headers:
            said = {name for name, _ in outgoing.headers}
            headers += [pair for pair in provider.version_headers if pair[0] not in said]
        return headers

    async def _connected(self, line: Line, credential: Credential, outgoing: Outgoing) -> Response:
        """One request; a connection that was never made is tried again."""
        assert self.lane is not None
        headers = self._headers(credential, outgoing)
        for left in range(CONNECT_TRIES - 1, -1, -1):
            try:
                return await self._runtime.pool.ask(
                    line, headers, outgoing.body, timeouts=self._runtime.timeouts, on_send=self._sending
                )
            except UpstreamError as error:
                if error.request_sent:
                    raise
                metrics.attempts[self.lane.provider, type(error).__name__] += 1
                if not left:
                    raise
                await asyncio.sleep(random.uniform(0.02, 0.2))  # noqa: S311  jitter, not a secret
        raise AssertionError("unreachable")

    def _sending(self) -> None:
        self.made += 1
        self.may_be_billed = True

    def mask(self, failure: ProxyError) -> None:
        """A provider that repeats its key puts it into no error and no row, whatever a key looks like."""
        key = self._key_in_use()
        for name in ("message", "type", "param", "code"):
            said = getattr(failure, name)
            if said is not None and key in said:
                setattr(failure, name, said.replace(key, "***"))

    def _key_in_use(self) -> str:
        assert self.credential is not None
        return self.credential.secret(self._runtime.keyring).reveal()

    async def _refusal(self, response: Response) -> ProxyError:
        """Reads a complete answer that is none to the request, and maps it."""
        assert self.lane is not None and self.lane.wire is not None and self.credential is not None
        metrics.attempts[self.lane.provider, f"status_{response.status // 100}xx"] += 1
        # As it came, for the wire may leave a part of a key, and as it was read, for JSON may escape one.
        body = (await read_error(response)).replace(self._key_in_use().encode(), b"***")
        self.may_be_billed = False
        if response.status < 400:
            return UpstreamBroken("The provider sends us elsewhere, where no request and no key goes.")
        failure = self.lane.wire.error(response.status, body)
        self.mask(failure)
        if response.status == 401 or failure.key_refused:
            self._runtime.journal.api_key_refused(self.credential.api_key_id, failure.message)
        wait = retry_after_ms(response.headers)
        if wait is not None:
            failure.retry_after_ms = wait
        return failure


def _key_missing(lane: Lane) -> ProviderKeyMissing:
    return ProviderKeyMissing(
        f"No usable API key for {PROVIDERS[lane.provider].title} is stored. Add one at /api-keys.", param="model"
    )


def request_id_of(fields: Mapping[bytes, bytes]) -> bytes:
    """What the provider calls this exchange; b"" if it does not say."""
    return fields.get(b"x-request-id") or fields.get(b"request-id", b"")


async def read_error(response: Response) -> bytes:
    """At most MAX_ERROR_BODY bytes of an error answer; the connection is given back or closed."""
    parts, size = [], 0
    try:
        while size < MAX_ERROR_BODY and (data := await response.read()):
            parts.append(data)
            size += len(data)
    except UpstreamError as error:
        raise translate(error) from error
    finally:
        response.abort()
    return b"".join(parts)


async def read_out(response: Response) -> None:
    """A finished stream's last chunk follows at once: reading it keeps the connection for the next one."""
    if response.try_read() == b"":
        return
    try:
        async with asyncio.timeout(1):
            while await response.read():
                pass
    except (TimeoutError, UpstreamError):
        pass


def translate(error: UpstreamError) -> ProxyError:
    """Our upstream client's failure as the client is told it; nothing of a host or an address."""
    if not error.request_sent:
        if isinstance(error, ConnectTimeout | TLSTimeout):
            return UpstreamTimeout("The provider could not be reached in time.", retryable=True)
        if isinstance(error, TLSFailed):
            return UpstreamUnreachable("No trusted TLS connection to the provider could be made.", retryable=False)
        if isinstance(error, ConnectFailed):
            return UpstreamUnreachable("The provider could not be reached.", retryable=True)
    if isinstance(error, FirstByteTimeout | IdleTimeout | WriteTimeout):
        return UpstreamTimeout("The provider did not answer in time. It may have worked on the request.")
    return UpstreamBroken("The connection to the provider broke. It may have worked on the request.")


def retry_after_ms(headers: Sequence[tuple[bytes, bytes]]) -> int | None:
    """`retry-after-ms`, else `retry-after` in seconds (RFC 9110 §10.2.3); a date is left out, clocks differ."""
    found: dict[bytes, bytes] = {name: value for name, value in headers if name.startswith(b"retry-after")}
    for name, unit in ((b"retry-after-ms", 1), (b"retry-after", 1000)):
        try:
            wait = float(found[name]) * unit
        except (KeyError, ValueError):
            continue
        if 0 <= wait <= 86_400_000:
            return int(wait)
    return None
