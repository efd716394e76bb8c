"""Owns the attempts at a provider: which stored key, what may be tried again, and when never to.

Everything here happens before the client's first byte. A request that may have reached a provider is sent again only
after a complete answer that says it was not served, and then with another key.
"""

import asyncio
import logging
import random
from collections.abc import Sequence

import msgspec

from proxy import metrics
from proxy.errors import (
    ProviderKeyMissing,
    ProviderKeyRejected,
    ProxyError,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from proxy.policy import Credential
from proxy.routing import Route
from proxy.runtime import Destination, Runtime, destination
from proxy.upstream import (
    ConnectFailed,
    ConnectTimeout,
    FirstByteTimeout,
    IdleTimeout,
    Response,
    Stream,
    TLSFailed,
    TLSTimeout,
    UpstreamError,
    WriteTimeout,
)
from proxy.wire import Wire
from vault.crypto import Unsealable, unseal
from vault.providers import PROVIDERS

logger = logging.getLogger(__name__)

# Complete answers after which the next key is asked: this one is refused, out of money, or over its limit.
NEXT_KEY = frozenset({401, 402, 429, 503, 529})
CONNECT_TRIES = 3
MAX_ERROR_BODY = 64 << 10


class Outgoing(msgspec.Struct):
    """One request to a provider, but for the credential."""

    method: bytes
    path: str
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes | Stream  # a stream can be sent once


class Attempts:
    """Tries the keys of one provider in order; `made` counts the requests that may have reached it."""

    def __init__(self, runtime: Runtime, wire: Wire, route: Route) -> None:
        self._runtime = runtime
        self._wire = wire
        self._route = route
        self.made = 0
        self.provider_request_id = b""  # of the last answer
        self.credential: Credential | None = None  # the one that was tried last

    async def run(self, credentials: Sequence[Credential], outgoing: Outgoing) -> Response:
        """The first answer that is not another key's turn. ProxyError, mapped for the client, when there is none."""
        failure: ProxyError = ProviderKeyMissing(
            f"No usable API key for {PROVIDERS[self._route.provider].title} is stored. Add one at /api-keys.",
            param="model",
        )
        for credential in credentials:
            self.credential = credential
            try:
                headers, where = self._address(credential, outgoing)
            except Unsealable:
                logger.error("api key %s does not open: check the master keys", credential.api_key_id)
                failure = ProviderKeyRejected("The stored API key cannot be opened. Store it again.")
                continue
            response = await self._connected(where, headers, outgoing)
            self.provider_request_id = request_id_of(response.headers)
            if response.status < 400:
                return response
            failure = await self._refusal(response, credential)
            if isinstance(outgoing.body, Stream) or (response.status not in NEXT_KEY and not failure.key_refused):
                break
        if self.made > 1 and failure.status >= 500:
            failure.retryable = False  # one owner of retries: this one has tried
        raise failure

    def _address(self, credential: Credential, outgoing: Outgoing) -> tuple[list[tuple[bytes, bytes]], Destination]:
        """Where a stored key is in the clear, and only until its header is written."""
        provider = PROVIDERS[self._route.provider]
        where = destination(credential.context.base_url or self._runtime.base_urls[self._route.provider])
        secret = unseal(credential.sealed, credential.context, self._runtime.keyring)
        said = {name for name, _ in outgoing.headers} if provider.version_headers else ()
        version = [pair for pair in provider.version_headers if pair[0] not in said]
        return [*provider.credential_headers(secret), *version, *outgoing.headers], where

    async def _connected(self, where: Destination, headers: list[tuple[bytes, bytes]], outgoing: Outgoing) -> Response:
        """One request; a connection that was never made is tried again."""
        provider = self._route.provider
        for left in range(CONNECT_TRIES - 1, -1, -1):
            try:
                return await self._runtime.pool.send(
                    where.origin,
                    outgoing.method,
                    (where.path + outgoing.path).encode("ascii"),
                    headers,
                    outgoing.body,
                    timeouts=self._runtime.timeouts,
                    on_send=self._sending,
                )
            except UpstreamError as error:
                metrics.attempts[provider, type(error).__name__] += 1
                if error.request_sent:
                    raise translate(error) from error
                if not left:
                    raise translate(error) from error
                await asyncio.sleep(random.uniform(0.02, 0.2))  # noqa: S311  jitter, not a secret
        raise AssertionError("unreachable")

    def _sending(self) -> None:
        self.made += 1

    def _masked(self, body: bytes, credential: Credential) -> bytes:
        """A provider that repeats its key puts it into no answer and no row, whatever a key looks like."""
        secret = unseal(credential.sealed, credential.context, self._runtime.keyring)
        return body.replace(secret.reveal().encode(), b"***")

    async def _refusal(self, response: Response, credential: Credential) -> ProxyError:
        """Reads a complete error answer and maps it."""
        metrics.attempts[self._route.provider, f"status_{response.status // 100}xx"] += 1
        body = self._masked(await read_error(response), credential)
        failure = self._wire.error(response.status, body)
        if response.status == 401 or failure.key_refused:
            self._runtime.journal.api_key_refused(credential.api_key_id, failure.message)
        wait = retry_after_ms(response.headers)
        if wait is not None:
            failure.retry_after_ms = wait
        return failure


def request_id_of(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """What the provider calls this exchange; b"" if it does not say."""
    return next((value for name, value in headers if name in {b"x-request-id", b"request-id"}), b"")


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
