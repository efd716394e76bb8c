"""What only the common limiter does: one count for all workers, epochs, and a connection that is never out of step."""

import asyncio
import contextlib
import socket
import ssl
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import trustme
import uvloop

from proxy.limits import Ask, Limit, LimiterAway, levels
from proxy.limits.connection import Address, Connection
from proxy.limits.redis import RedisLimiter
from proxy.tests.limits_redis import PATIENCE, URL, RedisServer, hammer, own_keys, sessions, until, virtual_clock
from proxy.tests.upstream_peer import turns

BOTH = (Limit("user:a", 100, 1_000, 10), Limit("key:a", 50, 500, 5))


@pytest.fixture
def prefix() -> Iterator[str]:
    with own_keys() as prefix:
        yield prefix


@pytest.fixture
def client() -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(URL, decode_responses=True) as client:
        yield client


@pytest.fixture
async def limiter(prefix: str) -> AsyncIterator[RedisLimiter]:
    limiter = RedisLimiter(URL, PATIENCE, prefix=prefix)
    yield limiter
    await limiter.close()


def server_ms(client: "redis.Redis") -> int:
    seconds, micro = client.time()
    return seconds * 1000 + micro // 1000


async def test_it_admits_a_limit_once_over_four_connections(prefix: str, client: "redis.Redis") -> None:
    started = server_ms(client)
    admitted = sum(await asyncio.gather(*(hammer(URL, prefix, 250) for _ in range(4))))
    assert 100 <= admitted <= 100 + (server_ms(client) - started) * 100 // 60_000


async def test_it_admits_a_limit_once_over_four_processes(prefix: str, client: "redis.Redis") -> None:
    command = (sys.executable, "-m", "proxy.tests.limits_redis", URL, prefix, "250")
    started = server_ms(client)
    pipe = asyncio.subprocess.PIPE
    workers = [await asyncio.create_subprocess_exec(*command, stdout=pipe) for _ in range(4)]
    outputs = await asyncio.gather(*(worker.communicate() for worker in workers))
    admitted = sum(int(out) for out, _ in outputs)
    assert 100 <= admitted <= 100 + (server_ms(client) - started) * 100 // 60_000


async def test_it_says_stale_when_an_epoch_changed_and_takes_nothing(
    prefix: str, limiter: RedisLimiter, client: "redis.Redis"
) -> None:
    keys = (prefix + "epoch:key", prefix + "epoch:user")
    epochs = await limiter.read_epochs(keys)
    assert (await limiter.admit(Ask("a", BOTH, 10, keys, epochs))).verdict == "ok"
    client.set(keys[1], "changed")
    got = await limiter.admit(Ask("b", BOTH, 10, keys, epochs))
    assert (got.verdict, got.epochs) == ("stale", (epochs[0], "changed"))
    assert (await limiter.admit(Ask("c", BOTH, 10, keys, got.epochs))).remaining_requests == 48


async def lose_an_epoch(
    prefix: str, limiter: RedisLimiter, client: "redis.Redis"
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Its key, and the value that it had."""
    keys = (prefix + "epoch:key",)
    epochs = await limiter.read_epochs(keys)
    client.delete(*keys)
    return keys, epochs


async def test_it_creates_an_epoch_that_is_missing_and_says_stale(
    prefix: str, limiter: RedisLimiter, client: "redis.Redis"
) -> None:
    keys, epochs = await lose_an_epoch(prefix, limiter, client)
    got = await limiter.admit(Ask("a", (), 0, keys, epochs))
    assert got.verdict == "stale"
    assert got.epochs == (client.get(keys[0]),) != epochs
    assert len(got.epochs[0]) == 16
    assert 29 * 86_400 < client.ttl(keys[0]) <= 30 * 86_400


async def test_it_reads_epochs_the_same_from_every_worker(prefix: str, limiter: RedisLimiter) -> None:
    keys = tuple(f"{prefix}epoch:{n}" for n in range(3))
    other = RedisLimiter(URL, PATIENCE, prefix=prefix)
    first, second = await asyncio.gather(limiter.read_epochs(keys), other.read_epochs(keys))
    await other.close()
    assert first == second
    assert await limiter.read_epochs(()) == ()


async def test_it_never_gives_an_epoch_that_was_lost_the_value_it_had(
    prefix: str, limiter: RedisLimiter, client: "redis.Redis"
) -> None:
    keys, before = await lose_an_epoch(prefix, limiter, client)
    limiter._number += 4_095
    assert await limiter.read_epochs(keys) != before


async def test_it_tells_epochs_without_comparing_when_none_are_given(prefix: str, limiter: RedisLimiter) -> None:
    keys = (prefix + "epoch:key",)
    got = await limiter.admit(Ask("a", BOTH, 0, keys, None))
    assert got.verdict == "ok"
    assert got.epochs == await limiter.read_epochs(keys)


async def test_it_stores_nothing_where_nothing_is_limited(
    prefix: str, limiter: RedisLimiter, client: "redis.Redis"
) -> None:
    await limiter.admit(Ask("a", (Limit("user:a"), Limit("key:a", rpm=5)), 10))
    assert set(client.keys(prefix + "*")) == {prefix + "probe", prefix + "key:a"}
    assert client.strlen(prefix + "key:a") == 40  # the levels, their time and limits; no session holds anything


async def test_it_leaves_no_key_that_does_not_expire(prefix: str, limiter: RedisLimiter, client: "redis.Redis") -> None:
    ask = Ask("a", BOTH, 10, (prefix + "epoch",))
    await limiter.admit(ask)
    limiter.settle(ask, 100_000)
    await limiter.admit(Ask("b", BOTH, 0))
    lives = {key: client.pttl(key) for key in client.keys(prefix + "*")}
    assert len(lives) == 4  # the connection's probe is one of them
    assert min(lives.values()) > 0
    # The account outlives the debt it holds: 99,500 tokens at 500 a minute, and a minute more.
    assert lives[prefix + "key:a"] > 200 * 60_000


async def test_it_keeps_to_a_limit_while_what_was_let_in_before_it_goes_on(prefix: str, limiter: RedisLimiter) -> None:
    other, limits = RedisLimiter(URL, PATIENCE, prefix=prefix), (Limit("user:a", rpm=1),)
    await limiter.admit(Ask("running", (Limit("user:a", max_parallel=9),), 0))
    await other.admit(Ask("a", limits, 0))
    await limiter.renew()
    limiter.disconnect("lost")
    await limiter.connect()
    assert (await other.admit(Ask("b", limits, 0))).verdict == "limited"
    await other.close()


async def test_it_refills_after_the_server_clock_was_set_back(prefix: str, client: "redis.Redis") -> None:
    limiter = RedisLimiter(URL, PATIENCE, prefix=prefix, clock=virtual_clock(prefix + "now"))
    limits = (Limit("user:a", rpm=60),)
    client.set(prefix + "now", 10_000_000)
    for n in range(60):
        await limiter.admit(Ask(f"{n}", limits, 0))
    client.set(prefix + "now", 1_000_000)
    assert (await limiter.admit(Ask("x", limits, 0))).retry_after_ms == 1_000
    client.set(prefix + "now", 1_001_000)
    assert (await limiter.admit(Ask("y", limits, 0))).verdict == "ok"
    await limiter.close()


async def test_it_sends_what_one_turn_of_the_loop_asks_in_one_write(prefix: str, limiter: RedisLimiter) -> None:
    await limiter.connect()
    transport, writes = limiter._connection._transport, []
    limiter._connection._transport = Spy(transport, writes)
    mine, others = (BOTH, (f"{prefix}a",)), ((Limit("user:b", 100),), (f"{prefix}b",))
    asks = [Ask(f"{n}", limits, 1, keys) for n in range(5) for limits, keys in (mine, others)]
    await asyncio.gather(*(limiter.admit(ask) for ask in asks))
    for ask in asks:
        limiter.settle(ask, 1)
    await limiter.read_epochs((prefix + "after",))
    # A call for each policy; of requests a minute there is nothing to settle.
    assert [data.count(b"EVALSHA") for data in writes] == [2, 2]


async def test_it_sends_policies_that_limit_nothing_as_those_that_do(prefix: str, limiter: RedisLimiter) -> None:
    await limiter.connect()
    transport, writes = limiter._connection._transport, []
    limiter._connection._transport = Spy(transport, writes)
    policies = (f"{prefix}a",), (f"{prefix}b",)
    await asyncio.gather(*(limiter.admit(Ask(f"{n}", (), 1, keys)) for n in range(5) for keys in policies))
    assert [data.count(b"EVALSHA") for data in writes] == [2]


async def test_it_loses_alone_what_it_cannot_send(prefix: str, limiter: RedisLimiter) -> None:
    await limiter.connect()
    ended, others = Ask("ended", BOTH, 100), (Limit("user:b", tpm=50),)
    await limiter.admit(ended)
    limiter.settle(ended, 40)
    giant, other = limiter.admit(Ask("giant", BOTH, 1 << 63)), limiter.admit(Ask("b", others, 7))
    assert (await other).remaining_tokens == 43
    with pytest.raises(LimiterAway, match="cannot be packed"):
        await giant
    assert (await limiter.admit(Ask("next", BOTH, 0))).remaining_tokens in range(460, 501)  # what ended with it counts
    assert levels.read(URL, BOTH, prefix=prefix)[1].under_way == 1
    assert limiter.connected


async def test_it_judges_those_of_one_call_one_after_the_other(limiter: RedisLimiter) -> None:
    limits = (Limit("user:a", rpm=3, tpm=100), Limit("key:a", max_parallel=9))
    asks = [Ask(f"{n}", limits, tokens) for n, tokens in enumerate((50, 60, 40, 101, 0, 0))]
    got = await asyncio.gather(*(limiter.admit(ask) for ask in asks))
    assert [one.verdict for one in got] == ["ok", "limited", "ok", "too_large", "ok", "limited"]
    assert [one.kind for one in got] == ["", "tokens", "", "tokens", "", "requests"]
    assert [(one.remaining_requests, one.remaining_tokens) for one in got[:3]] == [(2, 50), (2, 50), (1, 10)]


class Spy:
    """The real transport, and a list of what was written to it."""

    def __init__(self, transport: asyncio.Transport, writes: list[bytes]) -> None:
        self.transport, self.writes = transport, writes

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.transport.write(data)

    def abort(self) -> None:
        self.transport.abort()


async def test_it_teaches_a_server_that_forgot_the_scripts(server: RedisServer) -> None:
    limiter = RedisLimiter(server.url, PATIENCE)
    ask = Ask("a", BOTH, 100)
    await limiter.admit(ask)
    with server.client() as client:
        client.script_flush()
        limiter.settle(ask, 0)
        assert (await limiter.admit(Ask("b", BOTH, 0))).remaining_tokens == 500
        client.script_flush()
        assert (await limiter.admit(Ask("c", BOTH, 0))).verdict == "ok"
    await limiter.close()
    assert limiter.failures == 0


async def test_it_gives_up_a_connection_that_is_late_and_never_mixes_answers_up(server: RedisServer) -> None:
    limiter = RedisLimiter(server.url, 0.05)
    await limiter.connect()
    keys = [(f"epoch:{n}",) for n in range(20)]
    before = [await limiter.read_epochs(key) for key in keys]
    server.freeze()
    with pytest.raises(LimiterAway, match="no reply within 50 ms"):
        await limiter.read_epochs(keys[0])
    assert not limiter.connected
    server.thaw()
    limiter._timeout = PATIENCE
    after = await asyncio.gather(*(limiter.read_epochs(key) for key in keys))
    assert (after, limiter.failures) == (before, 1)
    await limiter.close()


async def test_it_gives_back_what_a_call_that_timed_out_may_have_taken(server: RedisServer) -> None:
    limiter, limits = RedisLimiter(server.url, 0.05), (Limit("user:a", tpm=1_000, max_parallel=1),)
    await limiter.connect()
    server.freeze()
    with pytest.raises(LimiterAway):
        await limiter.admit(Ask("lost", limits, 900))
    server.thaw()
    limiter._timeout = PATIENCE
    assert (await limiter.admit(Ask("next", limits, 900))).verdict == "ok"
    await limiter.close()


async def test_it_gives_back_what_nobody_waits_for_any_more(limiter: RedisLimiter) -> None:
    await limiter.connect()
    limits = (Limit("user:a", tpm=1_000, max_parallel=1),)
    for turns_before in (0, 1, 2):  # before it is asked, before it leaves, while it is under way
        gone = Ask("gone", limits, 900)
        waiting = asyncio.ensure_future(limiter.admit(gone))
        await turns(turns_before)
        waiting.cancel()
        limiter.settle(gone, 0)
        await limiter.read_epochs(("test:after",))  # replies come in order
        assert (await limiter.admit(Ask("next", limits, 0))).remaining_tokens == 1_000
        await limiter.close()


async def lose_connection(limiter: RedisLimiter, server: RedisServer, meanwhile: Callable[[], None]) -> None:
    """With whatever was under way; at the end there is another."""
    limiter._connection.hurry(0.05)
    server.freeze()
    meanwhile()
    await until(lambda: not limiter.connected)
    server.thaw()
    await limiter.connect()


async def test_it_frees_what_was_settled_on_a_connection_that_was_lost(server: RedisServer) -> None:
    limiter, limits = RedisLimiter(server.url, PATIENCE), (Limit("user:a", max_parallel=300),)
    asks = [Ask(f"{n}", limits, 0) for n in range(300)]
    await asyncio.gather(*(limiter.admit(ask) for ask in asks))
    await lose_connection(limiter, server, lambda: [limiter.settle(ask, 0) for ask in asks[1:]])
    assert levels.read(server.url, limits)[0].under_way == 1
    await limiter.close()


async def test_it_knows_after_a_lost_connection_what_of_it_was_counted(server: RedisServer) -> None:
    """Whatever the server made of the calls whose replies were lost: each counts once."""
    limiter, limits = RedisLimiter(server.url, PATIENCE), (Limit("user:a", tpm=60_000_000, max_parallel=9),)
    running, ended, late = (Ask(name, limits, 1_000_000) for name in ("running", "ended", "late"))
    for ask in (running, ended, late):
        await limiter.admit(ask)
    lost = []

    def call() -> None:
        limiter.settle(ended, 200_000)
        lost.append(asyncio.ensure_future(limiter.admit(Ask("lost", limits, 5_000_000))))

    await lose_connection(limiter, server, call)
    with pytest.raises(LimiterAway):
        await lost[0]
    limiter.settle(late, 300_000)
    [level] = levels.read(server.url, limits) if (await limiter.read_epochs(("after",))) else []
    assert level.under_way == 1
    # 1,000,000 reserved, 500,000 used; a million a second comes back.
    assert level.reset_tokens_ms in range(1, 1_501)
    assert [slots for _, _, slots, *_ in held(server)] == [0, 1]
    await limiter.close()


def held(server: RedisServer) -> list[tuple[int, ...]]:
    with redis.Redis.from_url(server.url) as client:
        return sorted(sessions(client, "aiproxy:limits:user:a"), key=lambda one: one[2])


async def test_it_counts_no_call_of_a_session_that_is_over(server: RedisServer) -> None:
    limiter, limits = RedisLimiter(server.url, PATIENCE), (Limit("user:a", tpm=1_000, max_parallel=9),)
    ask = Ask("running", limits, 100)
    await limiter.admit(ask)
    before, packed, number = limiter.session, limiter._command(ask).packed, limiter.next_number()
    limiter.disconnect("lost")
    await limiter.connect()
    late = struct.pack("<7q", before, number, 0, 0, 0, 0, 500)
    with socket.create_connection(("127.0.0.1", server.port)) as straggler:
        straggler.sendall(packed + b"$%d\r\n%b\r\n" % (len(late), late))
        assert straggler.recv(100).startswith(b"-LATE")
    assert levels.read(server.url, limits)[0].under_way == 1
    await limiter.close()


class EndsBetween(RedisLimiter):
    """What is in `ending` ends when Redis has been told that it is under way, before the new connection is used."""

    ending: tuple[Ask, ...] = ()

    async def _take_over(self, connection: Connection) -> None:
        await super()._take_over(connection)
        for ask in self.ending:
            self.settle(ask, 0)


async def test_it_frees_what_ends_while_it_reconnects(server: RedisServer) -> None:
    limiter, limits = EndsBetween(server.url, PATIENCE), (Limit("user:a", max_parallel=2),)
    running, ending = Ask("running", limits, 0), Ask("ending", limits, 0)
    assert [(await limiter.admit(ask)).verdict for ask in (running, ending)] == ["ok", "ok"]
    limiter.ending = (ending,)
    limiter.disconnect("lost")
    await limiter.connect()
    await limiter.read_epochs(("after",))
    assert levels.read(server.url, limits)[0].under_way == 1
    await limiter.close()


async def test_it_counts_once_what_it_had_to_tell_twice(server: RedisServer) -> None:
    limits = (Limit("user:a", tpm=1_000, max_parallel=1), Limit("key:a", max_parallel=1))
    limiter, ended = RedisLimiter(server.url, PATIENCE, clock=virtual_clock("now")), Ask("ended", limits, 500)
    half = ("resetkeys", "~now", "~aiproxy:limits:probe", "~aiproxy:limits:user:*")
    with server.client() as client:
        client.set("now", 1_000_000)
        await limiter.admit(ended)
        limiter.disconnect("lost")
        limiter.settle(ended, 300)
        client.execute_command("ACL", "SETUSER", "default", *half)
        with pytest.raises(LimiterAway, match="it refused: NOPERM"):
            await limiter.connect()
        client.execute_command("ACL", "SETUSER", "default", "~*")
    got = await limiter.admit(Ask("next", limits, 0))
    assert (got.verdict, got.remaining_tokens) == ("ok", 700)
    await limiter.close()


@pytest.mark.parametrize(
    ("spoil", "mend", "said"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "OOM"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "READONLY"),
    ],
)
async def test_it_is_away_when_redis_answers_but_does_not_count(
    server: RedisServer, spoil: str, mend: str, said: str
) -> None:
    limiter, ask = RedisLimiter(server.url, PATIENCE), Ask("a", BOTH, 400)
    await limiter.admit(ask)
    with server.client() as client:
        client.execute_command(*spoil.split())
        with pytest.raises(LimiterAway, match=f"it refused: {said}"):
            await limiter.admit(Ask("b", BOTH, 1))
        limiter.settle(ask, 0)
        with pytest.raises(LimiterAway, match=f"it refused: {said}"):
            await limiter.connect()
        client.execute_command(*mend.split())
    assert (await limiter.admit(Ask("c", BOTH, 0))).remaining_tokens == 500
    await limiter.close()


async def test_it_makes_one_attempt_to_connect_for_all_who_wait(server: RedisServer) -> None:
    server.stop()
    limiter = RedisLimiter(server.url)
    results = await asyncio.gather(*(limiter.admit(Ask(f"{n}", BOTH, 1)) for n in range(50)), return_exceptions=True)
    assert {type(result) for result in results} == {LimiterAway}
    assert limiter.failures == 1


async def test_it_authenticates_and_selects_its_database() -> None:
    word = "pass" + "word@/:"
    server = RedisServer("--requirepass", word)
    quoted = word.replace("@", "%40").replace("/", "%2F").replace(":", "%3A")
    try:
        limiter = RedisLimiter(f"redis://default:{quoted}@127.0.0.1:{server.port}/3", PATIENCE)
        await limiter.admit(Ask("a", BOTH, 1))
        await limiter.close()
        with redis.Redis(port=server.port, password=word, db=3, decode_responses=True) as client:
            assert client.exists("aiproxy:limits:user:a")
        with pytest.raises(LimiterAway, match="AUTH refused: WRONGPASS") as refused:
            await RedisLimiter(f"redis://:wrong@127.0.0.1:{server.port}").connect()
        assert "wrong" not in str(refused.value)
    finally:
        server.close()


async def test_it_connects_over_a_unix_socket(server: RedisServer) -> None:
    server.stop()
    path = f"{server.directory}/redis.sock"
    server.options = ("--unixsocket", path)
    server.start()
    limiter = RedisLimiter(f"unix://{path}?db=2", PATIENCE)
    assert (await limiter.admit(Ask("a", BOTH, 1))).verdict == "ok"
    await limiter.close()


@contextlib.asynccontextmanager
async def tls_in_front_of(port: int, authority: trustme.CA) -> AsyncIterator[int]:
    """A port where the Redis at `port` speaks TLS as localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pipe(reader, inner_writer), pipe(inner_reader, writer), return_exceptions=True)

    front = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
    async with front:
        yield front.sockets[0].getsockname()[1]


async def test_it_speaks_tls_with_a_server_it_can_verify(server: RedisServer, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with tls_in_front_of(server.port, authority) as port:
        limiter = RedisLimiter(f"rediss://localhost:{port}/0?ssl_ca_certs={tmp_path / 'ca.pem'}", PATIENCE)
        assert (await limiter.admit(Ask("a", BOTH, 1))).verdict == "ok"
        await limiter.close()
        with pytest.raises(LimiterAway, match="cannot connect"):
            await RedisLimiter(f"rediss://localhost:{port}/0").connect()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_it_does_not_take_a_busy_loop_for_a_silent_redis(run: Callable[[Any], None], server: RedisServer) -> None:
    async def promise() -> None:
        limiter = RedisLimiter(server.url, 0.2)
        await limiter.connect()
        other, wakes = socket.socketpair()

        def busy() -> None:
            """Hears of something else, and holds the loop up until the reply is here, and overdue."""
            asyncio.get_running_loop().remove_reader(other)
            server.thaw()
            with redis.Redis.from_url(server.url) as another:
                another.ping()
            time.sleep(0.4)

        server.freeze()
        call = asyncio.ensure_future(limiter.admit(Ask("a", BOTH, 1)))
        await turns(3)
        asyncio.get_running_loop().add_reader(other, busy)
        wakes.send(b".")
        assert (await call).verdict == "ok"
        await limiter.close()
        other.close()
        wakes.close()

    run(promise())


def test_it_reads_addresses_and_keeps_the_password_to_itself() -> None:
    word = "x" * 12
    address = Address.parse(f"rediss://me:{word}@redis.example:6380/4?ssl_cert_reqs=none")
    assert (address.host, address.port, address.db, address.tls, address.verify) == (
        "redis.example",
        6380,
        4,
        True,
        False,
    )
    assert address.greeting() == [("AUTH", "me", word), ("SELECT", "4")]
    assert word not in repr(address)
    assert str(address) == "redis.example:6380"


@pytest.mark.parametrize(
    "url", ["http://redis", "redis://u:hunter@host:port/0", "redis://u:hunter@host/x", "redis://u:hunter@[::1/0"]
)
def test_it_refuses_addresses_without_repeating_them(url: str) -> None:
    with pytest.raises(ValueError, match="Redis URL") as refused:
        Address.parse(url)
    assert "hunter" not in str(refused.value)


async def test_it_renews_the_slots_of_what_is_under_way_and_no_others(prefix: str, client: "redis.Redis") -> None:
    limiter = RedisLimiter(URL, PATIENCE, slot_seconds=45, prefix=prefix, clock=virtual_clock(prefix + "now"))
    limits = (Limit("user:a", max_parallel=2),)
    client.set(prefix + "now", 1_000_000)
    ended, running = Ask("ended", limits, 0), Ask("running", limits, 0)
    assert [(await limiter.admit(ask)).verdict for ask in (ended, running)] == ["ok", "ok"]
    limiter.settle(ended, 0)
    client.set(prefix + "now", 1_040_000)
    await limiter.renew()
    await limiter.read_epochs((prefix + "after",))  # replies come in order
    with redis.Redis.from_url(URL) as raw:
        [(session, expiry, slots, *_)] = sessions(raw, f"{prefix}user:a")
    assert (session, expiry, slots) == (limiter.session, 1_085_000, 1)
    await limiter.close()


async def test_it_renews_slots_also_where_the_scripts_were_forgotten(server: RedisServer) -> None:
    limiter = RedisLimiter(server.url, PATIENCE, slot_seconds=45, clock=virtual_clock("now"))
    with server.client() as client:
        client.set("now", 1_000_000)
        await limiter.admit(Ask("running", (Limit("user:a", max_parallel=2),), 0))
        client.script_flush()
        client.set("now", 1_040_000)
    await limiter.renew()
    await limiter.read_epochs(("after",))  # replies come in order
    assert [expiry for _, expiry, *_ in held(server)] == [1_085_000]
    await limiter.close()
