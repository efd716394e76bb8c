"""A Redis that has lost its keys is told what is under way, before anybody is let in beside it."""

from collections.abc import Awaitable, Callable

import pytest
import redis

from proxy.limits import Ask, Limit, LimiterAway
from proxy.limits.redis import RedisLimiter
from proxy.tests.limits_redis import PATIENCE, RedisServer, until


async def test_it_tells_a_server_that_came_back_empty_what_is_under_way(server: RedisServer) -> None:
    limiter, limits = RedisLimiter(server.url, PATIENCE), (Limit("user:a", tpm=1_000, max_parallel=1),)
    running = Ask("running", limits, 900)
    await limiter.admit(running)
    server.stop()
    await until(lambda: not limiter.connected)
    server.start()
    assert (await limiter.admit(Ask("next", limits, 900))).verdict == "limited"
    limiter.settle(running, 0)
    await limiter.read_epochs(("after",))
    assert (await limiter.admit(Ask("next", limits, 900))).verdict == "ok"
    await limiter.close()


@pytest.fixture
def quiet(server: RedisServer) -> RedisServer:
    """A server that tells nobody when it is emptied, as one before Redis 6."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-client", "-hello")
    return server


async def test_it_tells_a_server_that_was_emptied_what_is_under_way(quiet: RedisServer) -> None:
    limiter, limits = RedisLimiter(quiet.url, PATIENCE), (Limit("user:a", max_parallel=2),)
    running = [Ask(f"running {number}", limits, 0) for number in range(2)]
    assert [(await limiter.admit(ask)).verdict for ask in running] == ["ok", "ok"]
    with quiet.client() as client:
        client.flushall()
    with pytest.raises(LimiterAway, match="FORGOTTEN"):
        await limiter.admit(Ask("first", limits, 0))
    limiter.settle(running[0], 0)
    assert [(await limiter.admit(Ask(name, limits, 0))).verdict for name in ("second", "third")] == ["ok", "limited"]
    await limiter.close()


async def is_told_to_others(
    server: RedisServer, notice: Callable[[RedisLimiter], Awaitable[None]] | None = None
) -> None:
    """What is under way when a server is emptied, though nothing begins or ends."""
    limiter, other = RedisLimiter(server.url, PATIENCE), RedisLimiter(server.url, PATIENCE)
    limits = (Limit("user:a", max_parallel=1),)
    await limiter.admit(Ask("running", limits, 0))
    with server.client() as client:
        client.flushall()
    if notice is not None:
        await notice(limiter)
    await until(lambda: not limiter.connected)
    await limiter.connect()
    assert (await other.admit(Ask("next", limits, 0))).verdict == "limited"
    await limiter.close()
    await other.close()


async def test_it_tells_others_what_is_under_way_where_it_was_emptied_and_nothing_begins_or_ends(
    quiet: RedisServer,
) -> None:
    await is_told_to_others(quiet, RedisLimiter.renew)


async def test_it_hears_from_a_server_that_is_emptied(server: RedisServer) -> None:
    await is_told_to_others(server)


async def test_it_stays_connected_when_another_database_of_the_server_is_emptied(server: RedisServer) -> None:
    limiter = RedisLimiter(server.url, PATIENCE)
    await limiter.admit(Ask("running", (Limit("user:a", max_parallel=1),), 0))
    with redis.Redis(port=server.port, db=1) as client:
        client.flushdb()
    session = limiter.session
    for _ in range(2):  # it hears of it before the first reply, and asks before the second
        await limiter.read_epochs(("after",))
    assert limiter.connected and limiter.session == session
    await limiter.close()
