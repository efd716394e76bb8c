"""The vocabulary of limits: what is asked, what is answered, who can answer.

Owns the value types and the `Limiter` interface that `memory`, `redis` and `guarded` implement. Must not know HTTP,
Django, the database or how a limit is configured.

A limit of n a minute is a token bucket: n at most, refilled continuously at n a minute. Levels are whole 1/60,000ths,
so that one millisecond refills exactly n of them and no fraction is ever lost. A bucket may go below zero (an answer
that was longer than its estimate); the debt refills like everything else.
"""

from collections.abc import Awaitable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec

Verdict = Literal["ok", "stale", "limited", "too_large"]
Kind = Literal["requests", "tokens", "parallel", ""]

# Level units in one request or token: the milliseconds of a minute.
UNITS = 60_000
# When a slot comes free depends on someone else's answer, so this is a pace for asking again and no promise.
PARALLEL_RETRY_MS = 1_000
# In memory a slot outlives its exchange: longer than the longest request, which may take an hour if nobody says else.
SLOT_SECONDS = 3_660.0
# In Redis a slot is renewed while its worker lives: one that was killed keeps nobody waiting for longer.
LEASE_SECONDS = 45.0


class LimiterAway(Exception):
    """The limiter could not be asked; whether it took anything is unknown. The text says why and names no secret."""


@dataclass(frozen=True, slots=True)
class Limit:
    """What one scope ("user:<uuid>", "key:<uuid>") may do; None is unlimited, 0 is nothing at all."""

    scope: str
    rpm: int | None = None
    tpm: int | None = None
    max_parallel: int | None = None

    @property
    def holds(self) -> bool:
        """Whether a request under way holds something of it; of requests a minute alone it does not."""
        return self.tpm is not None or self.max_parallel is not None


class Ask(msgspec.Struct, gc=False, eq=False):
    """One request that wants in.

    `tokens` is the estimate. `epochs` are the values that the caller's policy was loaded under, in the order of
    `epoch_keys`; None asks for the current ones without comparing. Pass a policy's own tuples, not copies: what is
    sent to Redis for them is prepared once.
    """

    request_id: Hashable
    limits: tuple[Limit, ...]
    tokens: int
    epoch_keys: tuple[str, ...] = ()
    epochs: tuple[str, ...] | None = None
    # Who admitted it: a settle goes to the same place, also when the other one has taken over meanwhile.
    owner: "Limiter | None" = None
    # Its owner's: what is kept ready for it, and whether nobody waits for the answer any more.
    prepared: Any = None
    given_up: bool = False


class Admission(msgspec.Struct, gc=False):
    """The answer. Everything was taken ("ok") or nothing was.

    `limit_*`, `remaining_*` and `reset_*_ms` describe the tightest bucket of each kind (None: unlimited); a reset is
    the time until that bucket is full. `retry_after_ms` is when a denied request would fit if nobody else came first.
    """

    verdict: Verdict
    epochs: tuple[str, ...] = ()
    kind: Kind = ""
    scope: str = ""
    retry_after_ms: int = 0
    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_ms: int | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_ms: int | None = None


class Limiter(Protocol):
    @property
    def tells_epochs(self) -> bool:
        """Whether it knows the current ones, at this moment."""
        ...

    def admit(self, ask: Ask) -> Awaitable[Admission]:
        """Take all of it or none. LimiterAway when the backend can't be asked. Whoever stops waiting for it settles."""
        ...

    def settle(self, ask: Ask, tokens: int) -> None:
        """Replace the estimate of an ask by what was used and free its slots, also of one that has yet to be answered.
        The second time, and for one that was refused, it does nothing."""
        ...

    async def read_epochs(self, keys: Sequence[str]) -> tuple[str, ...]:
        """The current epochs, to be read before the rows they stand for; () where there are none to read."""
        ...

    async def close(self) -> None: ...
