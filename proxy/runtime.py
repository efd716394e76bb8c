"""Owns what one worker has open for its exchanges: policies, limiter, journal, connections. Made after the fork."""

import asyncio
import hashlib
import logging
import ssl
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings

from accounts.addresses import networks
from accounts.keys import Peppers, Proofs
from proxy import metrics
from proxy.breaker import Breaker
from proxy.limits import Limiter
from proxy.limits.guarded import GuardedLimiter
from proxy.limits.memory import MemoryLimiter
from proxy.limits.redis import RedisLimiter
from proxy.policy import Policies, Policy
from proxy.refreshed import Refreshed
from proxy.upstream import Origin, Pool, Timeouts
from usage.journal import Journal
from usage.overrides import Overrides
from vault import keyring
from vault.providers import PROVIDERS

if TYPE_CHECKING:
    from proxy.exchange import Exchange
    from proxy.model_list import Listing

logger = logging.getLogger(__name__)

# Seconds that a slot in memory lives longer than its exchange may.
SLOT_MARGIN = 60.0
# Of so many stored keys a worker remembers what they reach: some 40 KB each.
MODEL_LISTS = 256


class Destination(NamedTuple):
    """Where a provider's requests go: the origin, and the path that all targets begin with."""

    origin: Origin
    path: str


@lru_cache(maxsize=1024)
def destination(base_url: str) -> Destination:
    parts = urlsplit(base_url)
    if not parts.hostname or parts.scheme not in {"http", "https"}:
        raise ValueError(f"not a base URL: {base_url!r}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Destination(Origin(parts.scheme, parts.hostname, port), parts.path.rstrip("/"))


def instance_id() -> str:
    """Our name in `Via`: the same on every worker and machine of one installation."""
    return settings.AIPROXY_INSTANCE_ID or hashlib.sha256(b"via" + settings.SECRET_KEY.encode()).hexdigest()[:16]


class Runtime:
    def __init__(self) -> None:
        self.via = f"aiproxy-{instance_id()}".encode()
        self.outgoing_headers = (  # of every request to a provider
            (b"accept", b"*/*"),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"aiproxy"),
            (b"via", b"1.1 " + self.via),
        )
        self.trusted = networks(settings.AIPROXY_TRUSTED_PROXIES)
        self.cors_origins = frozenset(origin.encode() for origin in settings.AIPROXY_CORS_ORIGINS)
        self.traces = bool(settings.AIPROXY_OTLP_ENDPOINT)  # whether the record keeps the client's traceparent
        self.max_body: int = settings.AIPROXY_MAX_BODY
        self.max_bodies: int = settings.AIPROXY_MAX_BODIES
        self.total_timeout: float = settings.AIPROXY_TOTAL_TIMEOUT
        self.bodies = 0  # bytes of request bodies in memory
        self.exchanges: set[Exchange] = set()
        self.peppers = Peppers.from_settings()
        self.proofs = Proofs()
        self._resigned: set[bytes] = set()  # old verifiers that have been reported
        self.keyring = keyring.current()
        self.base_urls = {slug: provider.base_url for slug, provider in PROVIDERS.items()}
        self.timeouts = Timeouts(
            connect=settings.AIPROXY_CONNECT_TIMEOUT,
            tls=settings.AIPROXY_TLS_TIMEOUT,
            first_byte=settings.AIPROXY_FIRST_BYTE_TIMEOUT,
            idle=settings.AIPROXY_STREAM_IDLE_TIMEOUT,
        )
        self.retry_after_wait: float = settings.AIPROXY_RETRY_AFTER_WAIT
        self.breaker = Breaker(
            settings.AIPROXY_BREAKER_FAILURES,
            window=settings.AIPROXY_BREAKER_WINDOW,
            rest=settings.AIPROXY_BREAKER_REST,
        )
        self.journal = Journal(
            Path(settings.AIPROXY_DATA_DIR) / "journal", segment_bytes=settings.AIPROXY_JOURNAL_SEGMENT
        )
        self.prices = Overrides()
        self.limiter = self._limiter()
        self.policies = Policies(
            read_epochs=self.limiter.read_epochs if settings.REDIS_URL else None,
            max_age=settings.AIPROXY_POLICY_MAX_AGE,
            patience=settings.AIPROXY_DATABASE_TIMEOUT,
        )
        self.model_lists: Refreshed[tuple[UUID, bytes], Listing] = Refreshed(MODEL_LISTS)  # by stored key
        self.pool = self._pool()
        self._watch: asyncio.Task[None] | None = None

    def cors(self, origin: bytes) -> list[tuple[bytes, bytes]]:
        """What lets an allowed web page read the answer (Fetch, "CORS protocol"); nothing for any other."""
        if not self.cors_origins:
            return []
        if origin not in self.cors_origins:
            return [(b"vary", b"origin")]
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"*"),
            (b"vary", b"origin"),
        ]

    def sign_anew(self, policy: Policy, key: str) -> None:
        """A key that was verified by an old pepper gets a verifier by the present one, once the shipper writes it."""
        if not self.peppers.is_primary(policy.verifier) and policy.verifier not in self._resigned:
            self._resigned.add(policy.verifier)
            verifier = self.peppers.sign(policy.key_id, policy.user_id, key)
            self.journal.key_resigned(policy.proxy_key_id, verifier)

    async def open(self) -> None:
        for provider in PROVIDERS.values():
            if provider.is_moved:
                logger.warning("%s is asked at %s instead of its official address", provider.title, provider.base_url)
        await asyncio.to_thread(self.journal.open)
        await asyncio.to_thread(self.prices.open)
        if isinstance(self.limiter, GuardedLimiter):
            await self.limiter.start()
        self._watch = asyncio.create_task(self._watch_over())

    async def close(self) -> None:
        if self._watch:
            self._watch.cancel()
        metrics.flush()
        self.policies.close()
        self.model_lists.close()
        await self.pool.close()
        await self.limiter.close()
        await asyncio.to_thread(self.journal.close)
        await asyncio.to_thread(self.prices.close)

    def _limiter(self) -> Limiter:
        slot_seconds = self.total_timeout + SLOT_MARGIN
        if not settings.REDIS_URL:
            return MemoryLimiter(slot_seconds=slot_seconds)
        redis = RedisLimiter(settings.REDIS_URL, timeout=settings.AIPROXY_REDIS_TIMEOUT)
        limiter = GuardedLimiter(redis, MemoryLimiter(settings.AIPROXY_WORKERS, slot_seconds=slot_seconds))
        limiter.on_change.append(lambda degraded: metrics.limiter_degraded.set(int(degraded)))
        limiter.on_reconnect.append(lambda: self.policies.flush())
        return limiter

    @staticmethod
    def _pool() -> Pool:
        context = ssl.create_default_context()
        if settings.AIPROXY_UPSTREAM_CA_FILE:
            context.load_verify_locations(settings.AIPROXY_UPSTREAM_CA_FILE)
        proxy = settings.AIPROXY_UPSTREAM_PROXY
        return Pool(ssl_context=context, connect_proxy=destination(proxy).origin if proxy else None)

    async def _watch_over(self) -> None:
        """What costs too much at every request; how late this timer fires is how long a callback ran."""
        loop = asyncio.get_running_loop()
        while True:
            for _ in range(5):
                due = loop.time() + 0.05
                await asyncio.sleep(0.05)
                metrics.loop_lag.observe(max(0.0, loop.time() - due))
            metrics.open_exchanges.set(len(self.exchanges))
            metrics.body_bytes.set(self.bodies)
            metrics.flush()
            overdue = time.monotonic() - self.total_timeout
            for exchange in [exchange for exchange in self.exchanges if exchange.began < overdue]:
                exchange.stop("deadline")
