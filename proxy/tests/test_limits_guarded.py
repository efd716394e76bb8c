"""What happens when Redis goes and comes back: with a real server that is stopped, frozen and started again."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator

import pytest

from proxy.limits import Ask, Limit, levels
from proxy.limits.guarded import GuardedLimiter
from proxy.limits.memory import MemoryLimiter
from proxy.limits.redis import RedisLimiter
from proxy.tests.limits_redis import PATIENCE, RedisServer, until

USER = (Limit("user:a", rpm=100),)
PARALLEL = (Limit("user:p", tpm=1_000, max_parallel=1),)
KEYS = ("aiproxy:epoch:key:1",)


@pytest.fixture
async def limiter(server: RedisServer) -> AsyncIterator[GuardedLimiter]:
    limiter = GuardedLimiter(RedisLimiter(server.url, 1.0), MemoryLimiter(4))
    await limiter.start()
    yield limiter
    await limiter.close()


async def admitted(limiter: GuardedLimiter, limits: tuple[Limit, ...], tries: int) -> int:
    answers = await asyncio.gather(*(limiter.admit(Ask(f"r{n}", limits, 0)) for n in range(tries)))
    return sum(answer.verdict == "ok" for answer in answers)


async def test_it_answers_from_memory_while_redis_is_stopped_and_from_redis_afterwards(
    limiter: GuardedLimiter, server: RedisServer
) -> None:
    assert (await limiter.admit(Ask("a", USER, 0, KEYS))).limit_requests == 100
    server.stop()
    assert (await limiter.admit(Ask("b", USER, 0, KEYS))).limit_requests == 25
    assert limiter.degraded
    server.start()
    await until(lambda: not limiter.degraded)
    assert (await limiter.admit(Ask("c", USER, 0, KEYS))).limit_requests == 100
    assert limiter.switches == 2


async def test_it_knows_no_epochs_while_degraded(limiter: GuardedLimiter, server: RedisServer) -> None:
    epochs = await limiter.read_epochs(KEYS)
    assert len(epochs) == 1
    server.stop()
    got = await limiter.admit(Ask("a", USER, 0, KEYS, ("another",)))
    assert (got.verdict, got.epochs) == ("ok", ())
    assert await limiter.read_epochs(KEYS) == ()


async def test_it_logs_one_line_a_change(
    limiter: GuardedLimiter, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "proxy.limits")
    changes: list[bool] = []
    limiter.on_change.append(changes.append)
    server.stop()
    await admitted(limiter, USER, 50)
    await until(lambda: limiter.failures > 3)
    server.start()
    await until(lambda: not limiter.degraded)
    assert changes == [True, False]
    away, back = (record.getMessage() for record in caplog.records if record.name.startswith("proxy.limits"))
    assert f"127.0.0.1:{server.port} is away" in away
    assert "is back after" in back


async def test_it_answers_every_call_that_a_frozen_redis_leaves_hanging(server: RedisServer) -> None:
    limiter = GuardedLimiter(RedisLimiter(server.url, 0.05, connect_timeout=0.1), MemoryLimiter())
    await limiter.start()
    server.freeze()
    assert await admitted(limiter, (Limit("user:f", rpm=200),), 150) == 150
    assert limiter.degraded
    server.thaw()
    await until(lambda: not limiter.degraded)
    await limiter.close()


async def test_it_tells_of_a_reconnection_before_it_uses_it(limiter: GuardedLimiter, server: RedisServer) -> None:
    seen: list[bool] = []
    limiter.on_reconnect.append(lambda: seen.append(limiter.degraded))
    server.stop()
    # Nobody asks: the loss alone is noticed, as after a failover.
    await until(lambda: limiter.degraded)
    server.start()
    await until(lambda: not limiter.degraded)
    assert seen == [True]


async def test_it_stays_degraded_while_a_reconnect_callback_fails(
    limiter: GuardedLimiter, server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    failing = [ValueError("flush failed")]

    def flush() -> None:
        if failing:
            raise failing.pop()

    limiter.on_reconnect.append(flush)
    server.stop()
    await until(lambda: limiter.degraded)
    server.start()
    await until(lambda: not limiter.degraded)
    assert failing == []
    assert "a reconnect callback failed" in caplog.text


async def test_it_starts_without_redis_and_finds_it_later(server: RedisServer) -> None:
    server.stop()
    limiter = GuardedLimiter(RedisLimiter(server.url), MemoryLimiter())
    await limiter.start()
    assert limiter.degraded
    assert (await limiter.admit(Ask("a", USER, 0))).verdict == "ok"
    server.start()
    await until(lambda: not limiter.degraded)
    await limiter.close()


async def test_it_hands_out_no_second_burst_at_the_switch(limiter: GuardedLimiter, server: RedisServer) -> None:
    assert await admitted(limiter, USER, 150) == 100
    server.stop()
    # Our share of what refilled since then: at 25 a minute, one in 2.4 s.
    started = time.monotonic()
    count = await admitted(limiter, USER, 150)
    assert limiter.degraded
    assert count <= 1 + (time.monotonic() - started) * 25 / 60


async def test_it_lets_nobody_in_beside_what_redis_let_in_here_and_goes_on(
    limiter: GuardedLimiter, server: RedisServer
) -> None:
    limits = (Limit("user:p", max_parallel=8),)
    asks = [Ask(f"running {number}", limits, 0) for number in range(3)]
    for ask in asks:
        await limiter.admit(ask)
    server.stop()
    assert (await limiter.admit(Ask("next", limits, 0))).kind == "parallel"  # our share is two
    for ask in asks[:2]:
        limiter.settle(ask, 0)
    assert [(await limiter.admit(Ask(name, limits, 0))).verdict for name in ("next", "third")] == ["ok", "limited"]


async def test_it_tells_redis_what_memory_let_in_and_goes_on(limiter: GuardedLimiter, server: RedisServer) -> None:
    server.stop()
    ask = Ask("a", PARALLEL, 200)
    await limiter.admit(ask)
    server.start()
    await until(lambda: not limiter.degraded)
    other = RedisLimiter(server.url, PATIENCE)
    assert (await other.admit(Ask("b", PARALLEL, 1))).kind == "parallel"
    limiter.settle(ask, 10_000)
    await limiter.read_epochs(KEYS)
    assert (await other.admit(Ask("c", PARALLEL, 1))).kind == "tokens"
    await other.close()


async def test_it_settles_what_memory_admitted_also_when_redis_is_back(
    limiter: GuardedLimiter, server: RedisServer
) -> None:
    server.stop()
    ask = Ask("a", PARALLEL, 200)
    await limiter.admit(ask)
    assert (await limiter.admit(Ask("b", PARALLEL, 1))).kind == "parallel"
    server.start()
    await until(lambda: not limiter.degraded)
    limiter.settle(ask, 0)
    server.stop()
    assert (await limiter.admit(Ask("c", PARALLEL, 1))).verdict == "ok"


async def test_it_settles_in_redis_what_redis_admitted_as_soon_as_it_is_back(server: RedisServer) -> None:
    limiter = GuardedLimiter(RedisLimiter(server.url, 0.05, connect_timeout=PATIENCE), MemoryLimiter())
    await limiter.start()
    ask = Ask("a", PARALLEL, 1_000)
    await limiter.admit(ask)
    server.freeze()
    await limiter.read_epochs(KEYS)
    assert limiter.degraded
    limiter.settle(ask, 0)
    server.thaw()
    await until(lambda: not limiter.degraded)
    assert (await limiter.admit(Ask("b", PARALLEL, 900))).verdict == "ok"
    await limiter.close()


async def test_it_keeps_counts_over_a_restart_of_this_process(server: RedisServer) -> None:
    for used, granted in ((90, 90), (50, 10)):
        limiter = GuardedLimiter(RedisLimiter(server.url, PATIENCE), MemoryLimiter())
        count = await admitted(limiter, (Limit("user:a", rpm=100, max_parallel=100),), used)
        assert count == granted
        await limiter.close()


async def test_it_leaves_no_task_behind(server: RedisServer) -> None:
    before = asyncio.all_tasks()
    limiter = GuardedLimiter(RedisLimiter(server.url, PATIENCE), MemoryLimiter())
    await limiter.start()
    server.stop()
    await until(lambda: limiter.failures > 2)
    await limiter.close()
    assert asyncio.all_tasks() == before


async def test_it_frees_the_slots_of_a_killed_worker_and_keeps_those_of_one_that_lives(server: RedisServer) -> None:
    alive, killed = (GuardedLimiter(RedisLimiter(server.url, 1.0, slot_seconds=0.3), MemoryLimiter()) for _ in range(2))
    orphaned = (Limit("user:q", max_parallel=1),)
    await alive.start()
    assert (await alive.admit(Ask("long", PARALLEL, 0))).verdict == "ok"
    assert (await killed.admit(Ask("orphan", orphaned, 0))).verdict == "ok"  # it never started to renew
    await until(lambda: levels.read(server.url, orphaned)[0].under_way == 0)
    assert (await alive.admit(Ask("next", orphaned, 0))).verdict == "ok"
    assert (await alive.admit(Ask("other", PARALLEL, 0))).verdict == "limited"
    await alive.close()
    await killed.close()
