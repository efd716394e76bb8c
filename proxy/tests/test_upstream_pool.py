"""Which connection carries a request: reuse, death while idle, bounds, addresses, tunnels, TLS, and many at once."""

import asyncio
import datetime
import os
import random
import socket
import ssl

import pytest
import trustme

from proxy.tests.upstream_peer import (
    Line,
    answering,
    deaf_port,
    loopback,
    new_pool,
    on_both_loops,
    serving,
    turns,
    until,
)
from proxy.upstream import ConnectFailed, ConnectTimeout, Origin, Timeouts, TLSFailed, TLSTimeout, UpstreamError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
LONG = Timeouts(connect=10, tls=10, first_byte=10, idle=10)
BRIEF = Timeouts(connect=0.05, tls=0.05, first_byte=10, idle=10)


@pytest.fixture
def pool():
    return new_pool(resolver=loopback)


async def ask(pool, origin, *, timeouts=LONG, body=b""):
    """The whole body of the answer."""
    response = await pool.send(origin, b"POST", b"/v1/x", [], body, timeouts=timeouts)
    return await read_all(response)


async def read_all(response):
    parts = []
    while part := await response.read():
        parts.append(part)
    return b"".join(parts)


# Reuse


@on_both_loops
async def test_it_reuses_the_connection_used_last(pool):
    async with serving(answering(OK)) as peer:
        await asyncio.gather(*(ask(pool, peer.origin) for _ in range(3)))
        (entry,) = pool._peers.values()
        newest = entry.idle[-1]
        assert await ask(pool, peer.origin) == b"hi"
        assert (peer.connections, entry.idle[-1] is newest) == (3, True)


@on_both_loops
@pytest.mark.parametrize("ending", ["fin", "reset"])
async def test_it_silently_replaces_a_connection_that_died_while_idle(ending, pool):
    async def script(line: Line) -> None:
        await line.request()
        await line.send(OK)
        await getattr(line, ending)()

    async with serving(script) as peer:
        for _ in range(3):
            assert await ask(pool, peer.origin) == b"hi"
            await turns(10)  # until the peer has closed
            assert pool.idle_connections == 0
        assert (len(peer.requests), peer.connections) == (3, 3)


@on_both_loops
async def test_it_no_longer_counts_an_idle_connection_that_died(pool):
    lines: list[Line] = []

    async def script(line: Line) -> None:
        lines.append(line)
        await line.request()
        await line.send(OK)
        await line.until_closed()

    async with serving(script) as peer:
        await asyncio.gather(ask(pool, peer.origin), ask(pool, peer.origin))
        await lines[0].fin()
        await turns(10)
        assert (pool.idle_connections, pool.open_connections) == (1, 1)


@on_both_loops
async def test_it_sees_a_fin_that_only_the_kernel_has_seen(pool):
    lines: list[Line] = []

    async def script(line: Line) -> None:
        lines.append(line)
        await line.request()
        await line.send(OK)
        await line.until_closed()

    async with serving(script) as peer:
        await ask(pool, peer.origin)
        with socket.socket(fileno=os.dup(lines[0].writer.get_extra_info("socket").fileno())) as end:
            end.shutdown(socket.SHUT_WR)
        assert await ask(pool, peer.origin) == b"hi"
        assert (len(peer.requests), peer.connections) == (2, 2)


@on_both_loops
async def test_it_closes_what_has_been_idle_too_long():
    pool = new_pool(idle_timeout=0.02)
    closed = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        await line.send(OK)
        await line.until_closed()
        closed.set()

    async with serving(script) as peer:
        await ask(pool, peer.origin)
        await asyncio.wait_for(closed.wait(), 5)
        assert (pool.idle_connections, pool.open_connections, pool._peers) == (0, 0, {})
    await pool.close()


@on_both_loops
async def test_it_does_not_reuse_what_the_sweep_has_yet_to_close(pool):
    async with serving(answering(OK)) as peer:
        await ask(pool, peer.origin)
        (entry,) = pool._peers.values()
        entry.idle[0].idle_until -= 31
        await ask(pool, peer.origin)
        assert peer.connections == 2


@on_both_loops
async def test_it_keeps_no_more_idle_connections_than_allowed():
    pool = new_pool(max_idle_per_origin=2)
    async with serving(answering(OK)) as peer:
        await asyncio.gather(*(ask(pool, peer.origin) for _ in range(5)))
        await turns()
        assert (pool.idle_connections, pool.open_connections) == (2, 2)
        await pool.close()


@on_both_loops
async def test_it_closes_everything_and_takes_no_more(pool):
    async def silent(line: Line) -> None:
        await line.request()
        await line.until_closed()

    async with serving(answering(OK)) as peer, serving(silent) as quiet:
        await ask(pool, peer.origin)
        waiting = asyncio.ensure_future(ask(pool, quiet.origin))
        await until(lambda: quiet.requests)
        await pool.close()
        assert pool.open_connections == 0
        with pytest.raises(UpstreamError) as failure:
            await waiting
        assert failure.value.request_sent
        with pytest.raises(ConnectFailed):
            await ask(pool, peer.origin)


@on_both_loops
@pytest.mark.parametrize("impatient", [False, True])
async def test_it_may_be_closed_by_several_at_once(impatient, pool):
    async with serving(answering(OK)) as peer:
        await ask(pool, peer.origin)
        first, second = (asyncio.ensure_future(pool.close()) for _ in range(2))
        await asyncio.sleep(0)
        if impatient:
            first.cancel()
        ended = await asyncio.wait_for(asyncio.gather(first, second, return_exceptions=True), 5)
        assert [type(one) for one in ended] == [asyncio.CancelledError if impatient else type(None), type(None)]
        assert pool.open_connections == 0


@on_both_loops
async def test_it_fails_cleanly_when_a_connection_is_closed_as_soon_as_it_is_made(pool):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        accepting = asyncio.get_running_loop().run_in_executor(None, lambda: listener.accept()[0].close())
        with pytest.raises(UpstreamError):
            await ask(pool, Origin("http", "127.0.0.1", listener.getsockname()[1]))
        await accepting
    assert pool.open_connections == 0


# Bounds


@on_both_loops
async def test_it_queues_beyond_the_bound_and_serves_all_in_turn():
    pool = new_pool(max_connections_per_origin=2)
    async with serving(answering(OK)) as peer:
        assert await asyncio.gather(*(ask(pool, peer.origin) for _ in range(20))) == [b"hi"] * 20
        assert (peer.connections, pool.open_connections) == (2, 2)
    await pool.close()


@on_both_loops
async def test_it_gives_the_slots_of_those_who_leave_to_those_who_stay():
    """Whoever is cancelled in the queue, while connecting or while waiting for an answer takes nothing along."""
    pool = new_pool(max_connections_per_origin=2)
    rng = random.Random(7)
    async with serving(answering(OK)) as peer:
        tasks = [asyncio.ensure_future(ask(pool, peer.origin)) for _ in range(200)]
        for task in rng.sample(tasks, 100):
            await asyncio.sleep(0)
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {o if isinstance(o, bytes) else type(o) for o in outcomes} == {b"hi", asyncio.CancelledError}
        assert await asyncio.gather(*(ask(pool, peer.origin) for _ in range(4))) == [b"hi"] * 4
        assert pool.open_connections <= 2
    await pool.close()
    assert pool._peers == {}


@on_both_loops
async def test_it_passes_on_the_turn_of_one_who_leaves_just_when_it_comes():
    pool = new_pool(max_connections_per_origin=1)
    async with serving(answering(OK[:-1])) as unfinished:
        response = await pool.send(unfinished.origin, b"POST", b"/", [], timeouts=LONG)
        first, second = (asyncio.ensure_future(pool.send(unfinished.origin, b"GET", b"/", [])) for _ in range(2))
        (entry,) = pool._peers.values()
        await until(lambda: len(entry.waiters) == 2)
        response.abort()
        await until(lambda: len(entry.waiters) == 1)
        first.cancel()
        assert (await asyncio.wait_for(second, 5)).status == 200
        assert first.cancelled()
        await pool.close()


@on_both_loops
async def test_it_keeps_to_the_bound_when_a_turn_comes_by_the_loss_of_the_last_connection():
    pool = new_pool(max_connections_per_origin=1)
    async with serving(answering(OK[:-1])) as unfinished:
        lost = await pool.send(unfinished.origin, b"POST", b"/", [], timeouts=LONG)
        second = asyncio.ensure_future(pool.send(unfinished.origin, b"POST", b"/", []))
        (entry,) = pool._peers.values()
        await until(lambda: entry.waiters)
        lost.abort()
        held = await asyncio.wait_for(second, 5)
        third = asyncio.ensure_future(pool.send(unfinished.origin, b"POST", b"/", []))
        await turns(10)
        assert (third.done(), unfinished.connections, pool.open_connections) == (False, 2, 1)
        held.abort()
        assert (await asyncio.wait_for(third, 5)).status == 200
        await pool.close()


@on_both_loops
async def test_it_frees_the_slot_of_a_failed_connect():
    pool = new_pool(max_connections_per_origin=1)
    for _ in range(3):
        with pytest.raises(ConnectFailed) as failure:
            await ask(pool, Origin("http", "127.0.0.1", closed_port()))
        assert not failure.value.request_sent
    assert (pool.open_connections, pool._peers) == (0, {})


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


# Many at once


@on_both_loops
async def test_it_never_mixes_answers_up_when_some_callers_leave(pool):
    """Tenants share connections: 200 at once, a tenth cancelled at random: each gets its own bytes or none."""
    rng = random.Random(11)

    async def echo(line: Line) -> None:
        while True:
            body = (await line.request()).split(b"\r\n\r\n", 1)[1]
            half = len(body) // 2
            await line.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body[:half])
            await line.send(body[half:] + b"\r\n0\r\n\r\n")

    async def tenant(origin, number):
        mark = b"<%d>" % number
        for size in (1, 50, 400):
            assert await ask(pool, origin, body=mark * size) == mark * size

    async with serving(echo) as peer:
        tasks = [asyncio.ensure_future(tenant(peer.origin, n)) for n in range(200)]
        await turns(10)
        for task in rng.sample(tasks, 20):
            await turns(rng.randrange(3))
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [o for o in outcomes if o is not None and not isinstance(o, asyncio.CancelledError)] == []
        assert sum(o is None for o in outcomes) >= 180
        await asyncio.gather(*(tenant(peer.origin, n) for n in range(50)))


# Addresses


def resolving_to(*addresses):
    async def resolver(_host, _port):
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]

    return resolver


@on_both_loops
@pytest.mark.parametrize("first", ["refusing", "stalling"])
async def test_it_survives_a_dead_first_address(first):
    async with serving(answering(OK)) as peer:
        with deaf_port() as deaf:
            dead = deaf if first == "stalling" else closed_port()
            pool = new_pool(resolver=resolving_to(("127.0.0.1", dead), ("127.0.0.1", peer.origin.port)))
            assert await ask(pool, Origin("http", "two.test", 80), timeouts=BRIEF) == b"hi"
            await pool.close()


@on_both_loops
@pytest.mark.parametrize("resolver", ["nothing", "unknown", "forbidden"])
async def test_it_says_that_a_name_leads_nowhere(resolver):
    async def forbidden(_host, _port):
        raise PermissionError("a private address")

    name = "unknown.invalid" if resolver == "unknown" else "a.test"
    pool = new_pool(resolver={"nothing": resolving_to(), "unknown": None, "forbidden": forbidden}[resolver])
    with pytest.raises(ConnectFailed, match=name) as failure:
        await ask(pool, Origin("http", name, 80))
    assert (failure.value.request_sent, pool.open_connections) == (False, 0)


@on_both_loops
async def test_it_gives_up_on_a_resolver_that_stalls():
    async def stalling(_host, _port):
        await asyncio.Event().wait()

    with pytest.raises(ConnectTimeout):
        await ask(new_pool(resolver=stalling), Origin("http", "a.test", 80), timeouts=BRIEF)


@on_both_loops
async def test_it_resolves_localhost_by_itself():
    pool = new_pool()
    async with serving(answering(OK), host="localhost") as peer:
        assert await ask(pool, peer.origin) == b"hi"
        await pool.close()


# CONNECT


def proxying(answer: bytes):
    """A CONNECT proxy: answers, and joins both sides if it agreed."""

    async def script(line: Line) -> None:
        head = await line.reader.readuntil(b"\r\n\r\n")
        line.peer.requests.append(head)
        await line.send(answer[:9], answer[9:])
        if not answer.startswith(b"HTTP/1.1 200"):
            return
        port = int(head.split()[1].rpartition(b":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await asyncio.gather(copy(line.reader, writer), copy(reader, line.writer))
        finally:
            writer.transport.abort()

    return script


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.transport.abort()


@on_both_loops
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_it_goes_through_a_connect_proxy(scheme, authority):
    tls = server_context(authority, "localhost") if scheme == "https" else None
    proxying_all = proxying(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n")
    async with serving(answering(OK), tls=tls, host="localhost") as peer, serving(proxying_all) as proxy:
        pool = new_pool(ssl_context=trusting(authority), connect_proxy=proxy.origin)
        assert [await ask(pool, peer.origin) for _ in range(2)] == [b"hi"] * 2
        target = b"localhost:%d" % peer.origin.port
        assert proxy.requests == [b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, target)]
        assert peer.requests[0].startswith(b"POST /v1/x HTTP/1.1\r\nHost: " + target)
        await pool.close()


PROXY_REFUSALS = {
    "forbidden": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
    "authentication": b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
    "early bytes": b"HTTP/1.1 299 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "not http": b"SSH-2.0-x\r\n\r\n",
    "too long": b"HTTP/1.1 299 OK\r\n" + b"x: y\r\n" * 4_000,
    "gone": b"",
}


@on_both_loops
@pytest.mark.parametrize("kind", PROXY_REFUSALS)
async def test_it_sends_nothing_when_the_connect_proxy_does_not_agree(kind):
    async with serving(proxying(PROXY_REFUSALS[kind])) as proxy:
        pool = new_pool(connect_proxy=proxy.origin)
        with pytest.raises(ConnectFailed, match="CONNECT proxy") as failure:
            await ask(pool, Origin("http", "provider.test", 80))
        assert (failure.value.request_sent, pool.open_connections) == (False, 0)


@on_both_loops
async def test_it_gives_up_on_a_connect_proxy_that_stalls():
    async with serving(lambda line: line.until_closed()) as proxy:
        with pytest.raises(ConnectTimeout):
            await ask(new_pool(connect_proxy=proxy.origin), Origin("http", "a.test", 80), timeouts=BRIEF)


# TLS


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def server_context(authority: trustme.CA, host: str, **validity: datetime.datetime) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2", "http/1.1"])
    authority.issue_cert(host, **validity).configure_cert(context)
    return context


@on_both_loops
async def test_it_verifies_names_itself_by_sni_and_speaks_http11_by_alpn(authority):
    seen: list[str | None] = []
    context = server_context(authority, "localhost")
    context.sni_callback = lambda _tls, name, _context: seen.append(name)

    async def script(line: Line) -> None:
        while True:
            await line.request()
            seen.append(line.writer.get_extra_info("ssl_object").selected_alpn_protocol())
            await line.send(OK)

    pool = new_pool(ssl_context=trusting(authority), resolver=loopback)
    async with serving(script, tls=context, host="localhost") as peer:
        assert [await ask(pool, peer.origin) for _ in range(2)] == [b"hi"] * 2
        assert (seen, peer.connections) == (["localhost", "http/1.1", "http/1.1"], 1)
        await pool.close()


@on_both_loops
@pytest.mark.parametrize("kind", ["wrong host", "expired", "unknown authority"])
async def test_it_sends_nothing_to_a_provider_that_it_cannot_verify(kind, authority):
    past = datetime.datetime(2020, 1, 1)
    validity = {"not_before": past, "not_after": past + datetime.timedelta(days=1)} if kind == "expired" else {}
    issuer = trustme.CA() if kind == "unknown authority" else authority
    context = server_context(issuer, "other.test" if kind == "wrong host" else "localhost", **validity)
    pool = new_pool(ssl_context=trusting(authority), resolver=loopback)
    async with serving(answering(OK), tls=context, host="localhost") as peer:
        with pytest.raises(TLSFailed, match="localhost") as failure:
            await ask(pool, peer.origin)
        await turns()
        assert (failure.value.request_sent, peer.requests, pool.open_connections) == (False, [], 0)


@on_both_loops
@pytest.mark.parametrize("kind", ["stalls", "closes", "speaks plain HTTP"])
async def test_it_gives_up_on_a_handshake_that_fails(kind):
    async def script(line: Line) -> None:
        if kind == "speaks plain HTTP":
            await line.send(OK)
        if kind != "closes":
            await line.until_closed()

    pool = new_pool(resolver=loopback)
    async with serving(script) as peer:
        timeouts = BRIEF if kind == "stalls" else LONG
        with pytest.raises(TLSTimeout if kind == "stalls" else TLSFailed) as failure:
            await ask(pool, peer.origin._replace(scheme="https"), timeouts=timeouts)
        assert (failure.value.request_sent, pool.open_connections) == (False, 0)


@on_both_loops
async def test_it_loses_no_byte_when_a_provider_closes_on_a_slow_reader(authority):
    """uvloop drops decrypted-later bytes when FIN overtakes them, unless they are left in the kernel."""
    size = 3_000_000

    async def script(line: Line) -> None:
        await line.request()
        line.writer.transport.set_write_buffer_limits(0)
        line.writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        await line.writer.drain()
        await until(lambda: not line.writer.transport.get_write_buffer_size())
        await line.cut()

    pool = new_pool(ssl_context=trusting(authority), resolver=loopback)
    async with serving(script, tls=server_context(authority, "localhost"), host="localhost") as peer:
        response = await pool.send(peer.origin, b"POST", b"/", [], timeouts=LONG)
        received = 0
        while not response.complete or response.buffered:
            await turns(20)
            assert response.buffered <= 262_144
            received += len(await response.read())
        assert received == size
        await pool.close()


async def test_it_refuses_a_context_that_does_not_verify():
    context = ssl.create_default_context()
    context.check_hostname = False
    with pytest.raises(ValueError, match="verify"):
        new_pool(ssl_context=context)


async def test_it_refuses_a_connect_proxy_that_it_cannot_speak_to():
    with pytest.raises(ValueError, match="http://"):
        new_pool(connect_proxy=Origin("https", "proxy.test", 443))
