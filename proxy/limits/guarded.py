"""Limits that go on while Redis is away: a breaker between the common limiter and the one of this process.

Owns the switch, the way back and its log lines. Must not know what hangs on epochs: `on_reconnect` tells whoever cached
by them. While `degraded`, epochs are () and nothing is ever "stale": the caller compares with the database.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Iterable, Sequence

from proxy.limits import Admission, Ask, LimiterAway
from proxy.limits.memory import MemoryLimiter
from proxy.limits.redis import RedisLimiter

logger = logging.getLogger(__name__)

# Between attempts to reach Redis, in seconds; the first one is made at once.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
# A connection that lasted this long starts the pauses anew; one that flaps does not.
STABLE = 10.0


class GuardedLimiter:
    """Asks Redis; at the first sign that it is away, this process decides by its share until Redis is back.

    `on_change(degraded)` follows every switch. `on_reconnect()` runs before a new connection is used for the first
    time, since a Redis that was away may have lost writes; if one raises, the connection is given up and tried again.
    `failures` counts calls and attempts that found Redis away, `switches` the changes of state.
    """

    def __init__(self, redis: RedisLimiter, memory: MemoryLimiter) -> None:
        self.degraded = False
        self.tells_epochs = True  # while not degraded
        self.failures = 0
        self.switches = 0
        self.on_change: list[Callable[[bool], None]] = []
        self.on_reconnect: list[Callable[[], None]] = []
        self._redis = redis
        self._memory = memory
        self._pause = 0.0
        self._changed_at = time.monotonic()
        self._probe: asyncio.Task[None] | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._by_memory: dict[Hashable, Ask] = {}  # admitted there, and not settled yet
        redis.on_lost = self._away
        redis.adopted = self._hand_over

    async def start(self) -> None:
        """Connect before the first request; without Redis, start degraded."""
        try:
            await self._redis.connect()
        except LimiterAway as exc:
            self._away(str(exc))
        self._renewal = asyncio.get_running_loop().create_task(self._renew())

    async def admit(self, ask: Ask) -> Admission:
        if not self.degraded:
            try:
                return await self._redis.admit(ask)
            except LimiterAway as exc:
                self._away(str(exc))
        admission = await self._memory.admit(ask)
        if admission.verdict == "ok" and any(limit.holds for limit in ask.limits):
            self._by_memory[ask.request_id] = ask
        return admission

    def settle(self, ask: Ask, tokens: int) -> None:
        self._by_memory.pop(ask.request_id, None)
        (ask.owner or self._redis).settle(ask, tokens)

    async def read_epochs(self, keys: Sequence[str]) -> tuple[str, ...]:
        """() while degraded: then the database says what is current."""
        if not self.degraded:
            try:
                return await self._redis.read_epochs(keys)
            except LimiterAway as exc:
                self._away(str(exc))
        return ()

    async def close(self) -> None:
        self._redis.on_lost = None
        tasks = [task for task in (self._probe, self._renewal) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._redis.close()
        await self._memory.close()

    async def _renew(self) -> None:
        """Twice may fail before a slot of ours expires."""
        while True:
            await asyncio.sleep(self._redis.slot_seconds / 3)
            await self._redis.renew()

    def _away(self, reason: str) -> None:
        self.failures += 1
        if self.degraded or self._redis.connected:
            return  # known already, or news of an older connection
        if time.monotonic() - self._changed_at > STABLE:
            self._pause = 0.0
        logger.warning(
            "Redis at %s is away (%s): this worker enforces 1/%d of each limit, epochs come from the database",
            self._redis.address,
            reason,
            self._memory.share,
        )
        self._change(degraded=True)
        self._probe = asyncio.get_running_loop().create_task(self._come_back())

    async def _come_back(self) -> None:
        while True:
            await asyncio.sleep(self._pause)
            self._pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, self._pause * 2))
            try:
                await self._redis.connect()
            except LimiterAway:
                self.failures += 1
                continue
            if self._redis.connected and self._told_reconnect():
                break
        away = time.monotonic() - self._changed_at
        logger.warning("Redis at %s is back after %.1f s: limits are common again", self._redis.address, away)
        self._change(degraded=False)

    def _hand_over(self) -> Iterable[Ask]:
        """What memory let in and goes on counts in Redis from now on: nobody is to be let in there beside it."""
        asks, self._by_memory = self._by_memory, {}
        for ask in asks.values():
            self._memory.settle(ask, ask.tokens)
        return asks.values()

    def _told_reconnect(self) -> bool:
        try:
            for callback in self.on_reconnect:
                callback()
        except Exception:
            # Going on could mean serving what the callback should have dropped, a revoked key for instance.
            logger.exception("Redis is reachable but not used: a reconnect callback failed")
            self._redis.disconnect("a reconnect callback failed")
            return False
        return True

    def _change(self, *, degraded: bool) -> None:
        if degraded:
            self._memory.take_over(self._redis.seen, self._redis.under_way)
        self.degraded, self.tells_epochs = degraded, not degraded
        self.switches += 1
        self._changed_at = time.monotonic()
        for callback in self.on_change:
            callback(degraded)
