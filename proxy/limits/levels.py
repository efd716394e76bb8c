"""What is left of limits now, for whoever shows it: reads what `redis` counts with, by the same script code.

Owns a look from outside the data plane, one call for all scopes, synchronous; takes nothing. Must not know Django or
whose limits they are. What a single process counts by itself (`memory`) cannot be seen from here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import redis

from proxy.limits import LEASE_SECONDS, Limit, LimiterAway
from proxy.limits.redis import PREFIX, SERVER_CLOCK, packed_limits, scripts

TIMEOUT = 1.0  # seconds: somebody looks at a page, no request waits


@dataclass(frozen=True, slots=True)
class Level:
    """As in the `x-ratelimit-*` of a request that takes nothing; a None belongs to a limit that there is not.

    A reset is the time until the bucket is full. `under_way` is 0 where only requests a minute are limited.
    """

    remaining_requests: int | None
    reset_requests_ms: int | None
    remaining_tokens: int | None
    reset_tokens_ms: int | None
    under_way: int


def read(url: str, limits: Sequence[Limit], *, prefix: str = PREFIX, clock: str = SERVER_CLOCK) -> list[Level]:
    """The levels of these limits, in their order. LimiterAway when Redis cannot be asked."""
    [text] = scripts(clock, int(LEASE_SECONDS * 1000), "levels")
    keys = [f"{prefix}{limit.scope}" for limit in limits]
    try:
        reply = _client(url).register_script(text)(keys, [b"".join(map(packed_limits, limits))])
    except redis.RedisError as error:
        raise LimiterAway(type(error).__name__) from error
    return [_level(reply[at : at + 5]) for at in range(0, len(reply), 5)]


def _level(numbers: list[int]) -> Level:
    *levels, under_way = numbers
    requests, requests_ms, tokens, tokens_ms = (None if number < 0 else number for number in levels)
    return Level(requests, requests_ms, tokens, tokens_ms, under_way)


@lru_cache(maxsize=4)
def _client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
