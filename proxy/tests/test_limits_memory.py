"""What only the limiter of one process does: a share of each limit, bounded memory, levels taken over."""

import pytest

from proxy.limits import Ask, Limit
from proxy.limits.memory import MemoryLimiter, Seen


class Clock:
    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms * 1_000_000


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def admitted(limiter: MemoryLimiter, limit: Limit, tries: int, tokens: int = 0) -> int:
    answers = [await limiter.admit(Ask(f"{limit.scope}{n}", (limit,), tokens)) for n in range(tries)]
    return sum(answer.verdict == "ok" for answer in answers)


async def test_it_enforces_its_share_of_each_limit_and_at_least_one(clock: Clock) -> None:
    limiter = MemoryLimiter(4, clock=clock)
    assert await admitted(limiter, Limit("user:a", rpm=100), 50) == 25
    assert await admitted(limiter, Limit("user:b", rpm=3), 50) == 1
    assert await admitted(limiter, Limit("user:c", max_parallel=8), 50) == 2


async def test_it_refuses_as_too_large_only_what_the_whole_limit_refuses(clock: Clock) -> None:
    limiter, limit = MemoryLimiter(4, clock=clock), Limit("user:a", tpm=1_000)
    assert (await limiter.admit(Ask("a", (limit,), 1_001))).verdict == "too_large"
    assert (await limiter.admit(Ask("b", (limit,), 800))).verdict == "ok"
    denied = await limiter.admit(Ask("c", (limit,), 1))
    # 800 of a share of 250: the debt of 550 and the one token asked for, at 250 a minute.
    assert denied.retry_after_ms == 551 * 60_000 // 250


async def test_it_never_says_stale(clock: Clock) -> None:
    got = await MemoryLimiter(clock=clock).admit(Ask("a", (), 0, ("epoch",), ("old",)))
    assert (got.verdict, got.epochs) == ("ok", ())
    assert await MemoryLimiter(clock=clock).read_epochs(("epoch",)) == ()


async def test_it_forgets_scopes_that_are_idle(clock: Clock) -> None:
    limiter = MemoryLimiter(slot_seconds=60, clock=clock)
    for n in range(5_000):
        clock.ms += 100
        await limiter.admit(Ask("r", (Limit(f"user:{n}", rpm=10, tpm=10, max_parallel=1),), 10))
    # A scope is idle two lives of a slot after its last request: 1,200 of them in these 120 seconds.
    assert len(limiter) <= 1.5 * 1_200


async def test_it_keeps_scopes_that_are_in_debt_or_in_use(clock: Clock) -> None:
    limiter = MemoryLimiter(slot_seconds=3_600, clock=clock)
    busy, debtor = Ask("a", (Limit("user:busy", max_parallel=1),), 0), Ask("b", (Limit("user:debtor", tpm=10),), 10)
    await limiter.admit(busy)
    await limiter.admit(debtor)
    limiter.settle(debtor, 30)
    clock.ms += 90_000
    await admitted(limiter, Limit("user:other", rpm=1), 1)
    await admitted(limiter, Limit("user:another", rpm=1), 1)
    assert (await limiter.admit(Ask("c", busy.limits, 0))).verdict == "limited"
    assert (await limiter.admit(Ask("d", debtor.limits, 1))).verdict == "limited"


async def test_it_goes_on_from_levels_that_another_limiter_left(clock: Clock) -> None:
    limiter, limit = MemoryLimiter(2, clock=clock), Limit("user:a", rpm=100)
    seen = {"user:a": Seen(requests=40 * 60_000, tokens=None, at=clock.ms)}
    clock.ms += 6_000
    limiter.take_over(seen.get)
    # Half of the 40 that were left, and what half of the limit refills in six seconds.
    assert await admitted(limiter, limit, 50) == 25


async def test_it_goes_on_from_such_levels_also_after_a_request_of_its_own_ended(clock: Clock) -> None:
    limiter, limit = MemoryLimiter(clock=clock), Limit("user:a", rpm=10, tpm=1_000)
    ask = Ask("own", (limit,), 10)
    await limiter.admit(ask)
    seen = {"user:a": Seen(requests=0, tokens=0, at=clock.ms + 1)}
    clock.ms += 2
    limiter.settle(ask, 10)
    limiter.take_over(seen.get)
    assert await admitted(limiter, limit, 20) == 0


async def test_it_takes_levels_over_only_where_they_are_news(clock: Clock) -> None:
    limiter, limit = MemoryLimiter(clock=clock), Limit("user:a", rpm=10)
    stale = {"user:a": Seen(requests=600_000, tokens=None, at=clock.ms - 1)}
    assert await admitted(limiter, limit, 20) == 10
    clock.ms += 1
    limiter.take_over(stale.get)
    assert await admitted(limiter, limit, 20) == 0
