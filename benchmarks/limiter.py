"""What the limiter costs this process, in CPU time a call; what Redis itself uses is not counted.

    python -m benchmarks.limiter [--url redis://127.0.0.1:6379/15] [--calls 20000]

Each call admits against a user's and a key's limits (requests, tokens, slots) and three epochs. `lone` asks one at a
time, so each call pays for its own write, poll and read; `together` asks 32 in one turn of the loop, and what 32 tasks
cost that build an Ask and wait for a future is taken off.
"""

import argparse
import asyncio
import gc
import os
import resource
import time
import uuid
from collections.abc import Awaitable, Callable

import redis.asyncio
import uvloop

from proxy.limits import Ask, Limit
from proxy.limits.memory import MemoryLimiter
from proxy.limits.redis import RedisLimiter

WIDTH = 32
Call = Callable[[int], Awaitable[object]]


def asks(prefix: str) -> Callable[[int], Ask]:
    limits = (
        Limit(f"user:{uuid.uuid4()}", 2_000_000_000, 2_000_000_000, 1_000_000),
        Limit(f"key:{uuid.uuid4()}", 2_000_000_000, 2_000_000_000, 1_000_000),
    )
    epochs = tuple(f"{prefix}epoch:{kind}:{uuid.uuid4()}" for kind in ("key", "user", "plan"))
    return lambda n: Ask(f"01890a5d-ac96-774b-bcce-{n:012d}", limits, 900, epochs)


async def measure(name: str, call: Call, *, calls: int, width: int, less: float = 0) -> float:
    """CPU microseconds of this process a call."""
    await asyncio.gather(*(call(n) for n in range(width)))
    gc.collect()
    cpu, kernel, wall = time.process_time(), kernel_seconds(), time.perf_counter()
    for n in range(width, calls + width, width):
        await (call(n) if width == 1 else asyncio.gather(*(call(n + i) for i in range(width))))
    cpu, kernel, wall = (
        (after - before) / calls * 1e6
        for before, after in ((cpu, time.process_time()), (kernel, kernel_seconds()), (wall, time.perf_counter()))
    )
    print(f"{name:34} {cpu - less:6.1f} µs CPU a call ({kernel:4.1f} of it in the kernel), {wall:6.1f} µs wall")
    return cpu


def kernel_seconds() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_stime


async def baseline(ask: Callable[[int], Ask], *, calls: int) -> float:
    """What waiting costs anyway: a task, an Ask, a future that something else resolves."""
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[None]] = []

    def resolve() -> None:
        for future in waiting:
            future.set_result(None)
        waiting.clear()

    async def wait(n: int) -> None:
        ask(n)
        if not waiting:
            loop.call_later(0, resolve)
        waiting.append(future := loop.create_future())
        await future

    return await measure("waiting alone, together", wait, calls=calls, width=WIDTH)


async def run(url: str, calls: int) -> None:
    prefix = f"bench:{uuid.uuid4().hex}:"
    limiter = RedisLimiter(url, timeout=5, prefix=prefix)
    memory = MemoryLimiter()
    ask = asks(prefix)

    async def admit(n: int) -> None:
        await limiter.admit(ask(n))

    async def both(n: int) -> None:
        one = ask(n)
        await limiter.admit(one)
        limiter.settle(one, 500)

    async def in_memory(n: int) -> None:
        one = ask(n)
        await memory.admit(one)
        memory.settle(one, 500)

    less = await baseline(ask, calls=calls)
    await measure("memory: admit + settle", in_memory, calls=calls, width=1)
    await measure("redis: admit, together", admit, calls=calls, width=WIDTH, less=less)
    await measure("redis: admit + settle, together", both, calls=calls, width=WIDTH, less=less)
    await measure("redis: admit + settle, lone", both, calls=calls, width=1)
    plain = redis.asyncio.Redis.from_url(url)
    await limiter.close()
    async for key in plain.scan_iter(match=prefix + "*", count=1000):
        await plain.delete(key)
    await plain.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379/15"))
    parser.add_argument("--calls", type=int, default=20_000)
    options = parser.parse_args()
    uvloop.run(run(options.url, options.calls))


if __name__ == "__main__":
    main()
