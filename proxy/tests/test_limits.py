"""What both limiters promise: the same answers from memory and from a real Redis, on a clock that the test sets."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
import redis
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.limits import Admission, Ask, Limit, Limiter
from proxy.limits.memory import MemoryLimiter
from proxy.limits.redis import RedisLimiter
from proxy.tests.limits_redis import PATIENCE, URL, own_keys, virtual_clock

MINUTE = 60_000
SLOT_SECONDS = 100


class Bench:
    """A limiter and the hands of its clock, in ms."""

    def __init__(self, backend: str, prefix: str) -> None:
        self.ms = 1_000_000
        self.ids = itertools.count()
        self.redis = redis.Redis.from_url(URL, decode_responses=True)
        self.prefix = prefix
        self.backend = backend
        self.workers: list[Limiter] = []
        self.limiter = self.worker()
        self.wait(0)

    def worker(self) -> Limiter:
        """Another worker's, where several count together."""
        if self.backend == "redis":
            clock = virtual_clock(self.prefix + "now")
            worker = RedisLimiter(URL, PATIENCE, slot_seconds=SLOT_SECONDS, prefix=self.prefix, clock=clock)
            self.workers.append(worker)
        elif not self.workers:
            self.workers.append(MemoryLimiter(slot_seconds=SLOT_SECONDS, clock=lambda: self.ms * 1_000_000))
        return self.workers[-1]

    def wait(self, ms: int) -> None:
        self.ms += ms
        self.redis.set(self.prefix + "now", self.ms)

    def ask(self, *limits: Limit, tokens: int = 0, request_id: str = "") -> Ask:
        return Ask(request_id or f"r{next(self.ids)}", limits, tokens)

    async def admit(self, *limits: Limit, tokens: int = 0) -> Admission:
        return await self.limiter.admit(self.ask(*limits, tokens=tokens))

    async def settle(self, ask: Ask, tokens: int) -> None:
        """Settled when it returns: replies come in order."""
        self.limiter.settle(ask, tokens)
        await self.limiter.read_epochs((self.prefix + "after",))

    async def close(self) -> None:
        for worker in self.workers:
            await worker.close()
        self.redis.close()


@pytest.fixture(params=["memory", "redis"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    with own_keys() as prefix:
        bench = Bench(request.param, prefix)
        yield bench
        await bench.close()


async def test_it_admits_the_limit_at_once_and_then_what_refills(bench: Bench) -> None:
    limit = Limit("user:a", rpm=60)
    first = [(await bench.admit(limit)).verdict for _ in range(61)]
    assert first == ["ok"] * 60 + ["limited"]
    bench.wait(3_000)
    later = [(await bench.admit(limit)).verdict for _ in range(4)]
    assert later == ["ok"] * 3 + ["limited"]


async def test_it_says_to_the_millisecond_when_a_request_will_fit(bench: Bench) -> None:
    limit = Limit("user:a", rpm=7)
    for _ in range(7):
        await bench.admit(limit)
    denied = await bench.admit(limit)
    assert (denied.verdict, denied.kind, denied.scope, denied.retry_after_ms) == ("limited", "requests", "user:a", 8572)
    bench.wait(8_571)
    assert (await bench.admit(limit)).verdict == "limited"
    bench.wait(1)
    assert (await bench.admit(limit)).verdict == "ok"


async def test_it_takes_from_all_limits_or_from_none(bench: Bench) -> None:
    user, key = Limit("user:a", rpm=10, tpm=1_000, max_parallel=10), Limit("key:a", rpm=1, tpm=1_000, max_parallel=10)
    assert (await bench.admit(user, key, tokens=100)).verdict == "ok"
    for _ in range(5):
        denied = await bench.admit(user, key, tokens=100)
        assert (denied.verdict, denied.scope) == ("limited", "key:a")
    left = await bench.admit(user, tokens=100)
    assert (left.remaining_requests, left.remaining_tokens) == (8, 800)


async def test_it_names_the_limit_that_keeps_the_request_waiting_longest(bench: Bench) -> None:
    user, key = Limit("user:a", rpm=60, max_parallel=1), Limit("key:a", tpm=60)
    await bench.admit(user, key, tokens=60)
    denied = await bench.admit(user, key, tokens=30)
    assert (denied.kind, denied.scope, denied.retry_after_ms) == ("tokens", "key:a", 30_000)


async def test_it_reports_the_tightest_bucket_of_each_kind(bench: Bench) -> None:
    user, key = Limit("user:a", rpm=100, tpm=600), Limit("key:a", rpm=50, tpm=6_000)
    got = await bench.admit(user, key, tokens=60)
    assert (got.limit_requests, got.remaining_requests, got.reset_requests_ms) == (50, 49, 1_200)
    assert (got.limit_tokens, got.remaining_tokens, got.reset_tokens_ms) == (600, 540, 6_000)


async def test_it_reports_nothing_where_nothing_is_limited(bench: Bench) -> None:
    got = await bench.admit(Limit("user:a"), tokens=5_000_000)
    assert got == Admission("ok")


async def test_it_refuses_for_good_what_could_never_fit(bench: Bench) -> None:
    user, key = Limit("user:a", rpm=5, tpm=1_000), Limit("key:a", tpm=100)
    refused = await bench.admit(user, key, tokens=101)
    assert (refused.verdict, refused.kind, refused.scope, refused.retry_after_ms) == ("too_large", "tokens", "key:a", 0)
    assert (await bench.admit(user, key, tokens=100)).remaining_requests == 4


async def test_it_gives_back_what_was_estimated_too_high(bench: Bench) -> None:
    limit = Limit("user:a", tpm=1_000)
    ask = bench.ask(limit, tokens=900)
    await bench.limiter.admit(ask)
    await bench.settle(ask, 200)
    assert (await bench.admit(limit, tokens=1)).remaining_tokens == 799


async def test_it_lets_a_bucket_go_into_debt_and_pays_it_off(bench: Bench) -> None:
    limit = Limit("user:a", tpm=600)
    ask = bench.ask(limit, tokens=100)
    await bench.limiter.admit(ask)
    await bench.settle(ask, 1_200)
    denied = await bench.admit(limit, tokens=1)
    assert (denied.remaining_tokens, denied.retry_after_ms, denied.reset_tokens_ms) == (0, 60_100, 120_000)
    assert (await bench.admit(limit, tokens=0)).verdict == "ok"
    bench.wait(60_100)
    assert (await bench.admit(limit, tokens=1)).verdict == "ok"


async def test_it_settles_a_request_once(bench: Bench) -> None:
    limit = Limit("user:a", tpm=1_000, max_parallel=5)
    ask = bench.ask(limit, tokens=500)
    await bench.limiter.admit(ask)
    for _ in range(3):
        await bench.settle(ask, 100)
    assert (await bench.admit(limit, tokens=1)).remaining_tokens == 899


async def test_it_ignores_the_settling_of_what_it_never_admitted(bench: Bench) -> None:
    limit = Limit("user:a", tpm=1_000)
    await bench.admit(limit, tokens=500)
    await bench.settle(bench.ask(limit, tokens=500, request_id="stranger"), 0)
    assert (await bench.admit(limit, tokens=1)).remaining_tokens == 499


async def test_it_frees_a_slot_when_its_request_is_settled(bench: Bench) -> None:
    limit = Limit("user:a", max_parallel=2)
    first, second = bench.ask(limit), bench.ask(limit)
    assert [(await bench.limiter.admit(ask)).verdict for ask in (first, second)] == ["ok", "ok"]
    denied = await bench.admit(limit)
    assert (denied.verdict, denied.kind, denied.retry_after_ms) == ("limited", "parallel", 1_000)
    await bench.settle(first, 0)
    assert (await bench.admit(limit)).verdict == "ok"


async def test_it_frees_a_slot_that_nobody_settled_when_it_expires(bench: Bench) -> None:
    limit = Limit("user:a", max_parallel=1)
    await bench.worker().admit(bench.ask(limit))  # and never comes back
    bench.wait(SLOT_SECONDS * 1_000 - 1)
    assert (await bench.admit(limit)).verdict == "limited"
    bench.wait(1)
    assert (await bench.admit(limit)).verdict == "ok"


async def test_it_corrects_tokens_once_also_after_the_slot_expired(bench: Bench) -> None:
    limit = Limit("user:a", tpm=1_000, max_parallel=1)
    late = bench.ask(limit, tokens=1_000)
    await bench.limiter.admit(late)
    bench.wait(SLOT_SECONDS * 1_000)
    assert (await bench.admit(limit, tokens=0)).remaining_tokens == 1_000
    await bench.settle(late, 1_500)
    await bench.settle(late, 1_500)
    assert (await bench.admit(Limit("user:a", tpm=1_000), tokens=0)).remaining_tokens == 500


async def test_it_admits_nothing_under_a_limit_of_zero(bench: Bench) -> None:
    requests, parallel = await bench.admit(Limit("user:a", rpm=0)), await bench.admit(Limit("user:b", max_parallel=0))
    assert (requests.verdict, requests.kind, requests.retry_after_ms) == ("limited", "requests", MINUTE)
    assert (parallel.verdict, parallel.kind) == ("limited", "parallel")
    assert (await bench.admit(Limit("user:c", tpm=0), tokens=1)).verdict == "too_large"


async def test_it_keeps_what_was_used_when_a_limit_changes(bench: Bench) -> None:
    await bench.admit(Limit("user:a", rpm=100))
    assert (await bench.admit(Limit("user:a", rpm=10))).remaining_requests == 9
    assert (await bench.admit(Limit("user:a", rpm=1_000))).remaining_requests == 8


async def test_it_keeps_to_a_limit_when_what_was_let_in_before_it_ends(bench: Bench) -> None:
    running = bench.ask(Limit("user:a", max_parallel=9), tokens=500)
    await bench.limiter.admit(running)
    limit = Limit("user:a", rpm=2, tpm=1_000, max_parallel=9)
    assert [(await bench.admit(limit, tokens=500)).verdict for _ in range(3)] == ["ok", "ok", "limited"]
    await bench.settle(running, 100)
    denied = await bench.admit(limit)
    assert (denied.verdict, denied.remaining_requests, denied.remaining_tokens) == ("limited", 0, 0)


async def test_it_takes_nothing_from_a_raised_limit_when_what_was_let_in_before_it_ends(bench: Bench) -> None:
    running = bench.ask(Limit("user:a", rpm=1, tpm=10), tokens=10)
    await bench.limiter.admit(running)
    raised = Limit("user:a", rpm=100, tpm=100)
    await bench.admit(raised)
    bench.wait(MINUTE)
    await bench.admit(raised)
    await bench.settle(running, 10)
    left = await bench.admit(raised)
    assert (left.remaining_requests, left.remaining_tokens) == (98, 100)


async def test_it_frees_no_slot_for_what_was_let_in_without_one(bench: Bench) -> None:
    key = Limit("key:a", max_parallel=9)
    before = bench.ask(Limit("user:a", rpm=100), key)
    await bench.limiter.admit(before)
    assert (await bench.admit(Limit("user:a", rpm=100, max_parallel=1), key)).verdict == "ok"
    await bench.settle(before, 0)
    assert (await bench.admit(Limit("user:a", rpm=100, max_parallel=1), key)).verdict == "limited"


async def test_it_loses_no_fraction_over_many_small_steps(bench: Bench) -> None:
    limit = Limit("user:a", rpm=7)
    for _ in range(7):
        await bench.admit(limit)
    for _ in range(60):
        bench.wait(143)
        await bench.admit(Limit("user:a", rpm=7))
    # 60 times 143 ms at 7 a minute are 1.001 requests; one of them was admitted, 60 units are left over.
    denied = await bench.admit(limit)
    assert (denied.verdict, denied.retry_after_ms) == ("limited", 8_563)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(0, 30_000), st.just(0)),
        st.tuples(st.just("admit"), st.integers(0, 2), st.integers(0, 120)),
        st.tuples(st.just("settle"), st.integers(0, 20), st.integers(0, 200)),
    ),
    min_size=5,
    max_size=40,
)
sizes = st.one_of(st.none(), st.integers(0, 100))
user, key = (st.builds(Limit, st.just(scope), sizes, sizes, sizes) for scope in ("user:a", "key:a"))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(script=steps, user=user, key=key)
def test_it_answers_from_memory_what_it_answers_from_redis(script: list, user: Limit, key: Limit) -> None:
    choices = ((user, key), (user,), (key,))

    async def play(backend: str, prefix: str) -> list[Admission]:
        bench, asks, answers = Bench(backend, prefix), [], []
        for what, number, tokens in script:
            if what == "wait":
                bench.wait(number)
            elif what == "admit":
                asks.append(bench.ask(*choices[number], tokens=tokens))
                answers.append(await bench.limiter.admit(asks[-1]))
            elif number < len(asks):
                await bench.settle(asks[number], tokens)
        await bench.close()
        return answers

    with own_keys() as prefix:
        assert asyncio.run(play("memory", prefix)) == asyncio.run(play("redis", prefix))


@pytest.mark.parametrize("backend", ["memory", "redis"])
@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(size=st.integers(1, 50), waits=st.lists(st.integers(0, 5_000), min_size=5, max_size=60))
def test_it_never_admits_more_than_the_burst_and_what_refilled(backend: str, size: int, waits: list[int]) -> None:
    async def admitted(prefix: str) -> int:
        bench = Bench(backend, prefix)
        count = 0
        for wait in waits:
            bench.wait(wait)
            got = await asyncio.gather(*(bench.admit(Limit("user:a", rpm=size)) for _ in range(3)))
            count += sum(one.verdict == "ok" for one in got)
        await bench.close()
        return count

    with own_keys() as prefix:
        assert asyncio.run(admitted(prefix)) <= size + sum(waits[1:]) * size // MINUTE
