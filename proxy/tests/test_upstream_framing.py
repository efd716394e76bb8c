"""What is an answer, where it ends, and what is refused as none: every kind, cut or split at every byte."""

import asyncio
import contextlib
import gc
import os
import ssl
import weakref

import pytest
import trustme

from proxy.connection import READ_BYTES
from proxy.eager import EagerTask
from proxy.tests.upstream_peer import Line, answering, loopback, on_both_loops, serving, turns, until
from proxy.upstream import BodyCut, Disconnected, Pool, ProtocolViolation, Timeouts, UpstreamError

LENGTH = b"HTTP/1.1 200 OK\r\nX-Kind: a\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6;x=y\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n"
TRAILERS = CHUNKED[:-2] + b"X-Sum: 1\r\nStatus: 500\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nX-Kind: a\r\n\r\nhello world"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
NO_CONTENT = b"HTTP/1.1 204 No Content\r\nX-Kind: a\r\n\r\n"
NOT_MODIFIED = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 11\r\n\r\n"
TIMEOUTS = Timeouts(connect=5, tls=5, first_byte=5, idle=5)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def server_tls(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def client_tls(authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def pool(client_tls):
    return Pool(ssl_context=client_tls, resolver=loopback)


async def ask(pool, origin, method=b"POST"):
    return await pool.send(origin, method, b"/v1/x", [(b"x-ask", b"1")], timeouts=TIMEOUTS)


async def read_all(response):
    parts = []
    while part := await response.read():
        parts.append(part)
    return b"".join(parts)


KINDS = {
    "content-length": (LENGTH, b"POST", 200, b"hello world", True),
    "chunked": (CHUNKED, b"POST", 200, b"hello world", True),
    "trailers": (TRAILERS, b"POST", 200, b"hello world", True),
    "until-close": (UNTIL_CLOSE, b"POST", 200, b"hello world", False),
    "interim": (INTERIM + LENGTH, b"POST", 200, b"hello world", True),
    "head": (LENGTH[:-11], b"HEAD", 200, b"", False),
    "head-chunked": (CHUNKED[: CHUNKED.index(b"6;")], b"HEAD", 200, b"", False),
    "no-content": (NO_CONTENT, b"POST", 204, b"", True),
    "not-modified": (NOT_MODIFIED, b"GET", 304, b"", True),
}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("kind", KINDS)
@on_both_loops
async def test_it_reads_every_kind_of_answer_split_at_any_byte(kind, tls, pool, server_tls):
    wire, method, status, body, keeps = KINDS[kind]
    splits = iter(range(1, len(wire)))

    async def script(line: Line) -> None:
        while True:
            await line.request()
            at = next(splits)
            await line.send(wire[:at], wire[at:])
            if not keeps:
                await line.fin()

    async with serving(script, tls=server_tls if tls else None, host="localhost") as peer:
        for _ in range(1, len(wire)):
            response = await ask(pool, peer.origin, method)
            assert (response.status, await read_all(response), response.complete) == (status, body, True)
            assert b"x-sum" not in response.fields
        assert peer.connections == (1 if keeps else len(wire) - 1)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(
    "wire", [LENGTH, CHUNKED, TRAILERS, INTERIM + LENGTH], ids=["length", "chunked", "trailers", "interim"]
)
@on_both_loops
async def test_it_tells_an_answer_cut_at_any_byte(wire, tls, pool, server_tls):
    cuts = iter(range(len(wire)))
    body_at = wire.rindex(b"HTTP/1.1") + wire[wire.rindex(b"HTTP/1.1") :].index(b"\r\n\r\n") + 4

    async def script(line: Line) -> None:
        await line.request()
        await line.send(wire[: next(cuts)])
        await line.cut()

    async with serving(script, tls=server_tls if tls else None, host="localhost") as peer:
        for cut in range(len(wire)):
            with pytest.raises(Disconnected if cut < body_at else BodyCut) as failure:
                await read_all(await ask(pool, peer.origin))
            assert failure.value.request_sent
        assert len(peer.requests) == len(wire)


@on_both_loops
async def test_it_hands_out_what_came_before_the_cut(pool):
    async def script(line: Line) -> None:
        await line.request()
        await line.send(LENGTH[:-3])
        await line.reset()

    async with serving(script) as peer:
        response = await ask(pool, peer.origin)
        assert await response.read() == b"hello wo"
        with pytest.raises(BodyCut):
            await response.read()


@pytest.mark.parametrize("ending", ["cut", "reset"])
@on_both_loops
async def test_it_does_not_take_a_torn_connection_for_the_end_of_a_body_without_length(ending, pool, server_tls):
    """Over TLS only close_notify ends it (RFC 8446, 6.1); over plain TCP only FIN does."""

    async def script(line: Line) -> None:
        await line.request()
        await line.send(UNTIL_CLOSE)
        await getattr(line, ending)()

    async with serving(script, tls=server_tls if ending == "cut" else None, host="localhost") as peer:
        response = await ask(pool, peer.origin)
        with pytest.raises(BodyCut):
            await read_all(response)


@pytest.mark.parametrize("when", ["same segment", "while buffered", "while idle"])
@pytest.mark.parametrize("stray", [LENGTH.replace(b"200", b"401"), b"x", b"HTTP/1.1 200 OK\r\n"])
@on_both_loops
async def test_it_never_gives_bytes_after_the_end_to_the_next_request(when, stray, pool):
    async def script(line: Line) -> None:
        await line.request()
        await line.send(*([LENGTH + stray] if when == "same segment" else [LENGTH, stray]))
        await line.until_closed()

    async with serving(script) as peer:
        first = await ask(pool, peer.origin)
        if when == "while idle":
            assert await first.read() == b"hello world"
        await turns(10)
        second = await ask(pool, peer.origin)
        assert [(first.status, second.status), peer.connections] == [(200, 200), 2]
        assert await second.read() == b"hello world"
        assert when == "while idle" or await first.read() == b"hello world"


@on_both_loops
async def test_it_sees_stray_bytes_that_only_the_kernel_has_seen(pool):
    """The next request goes out in the very turn in which a stray answer comes: poll() tells, the loop cannot."""
    lines: list[Line] = []

    async def script(line: Line) -> None:
        lines.append(line)
        await line.request()
        await line.send(LENGTH)
        await line.until_closed()

    async with serving(script) as peer:
        await read_all(await ask(pool, peer.origin))
        os.write(lines[0].writer.get_extra_info("socket").fileno(), LENGTH.replace(b"200", b"401"))
        assert (await ask(pool, peer.origin)).status == 200
        assert peer.connections == 2


@on_both_loops
async def test_it_never_takes_bytes_that_wait_within_tls_for_the_next_answer(pool, server_tls):
    """The first answer just fills a read, and its caller asks again in that very read: poll() sees nothing of them."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 65494\r\n\r\n"
    statuses = []

    async def script(line: Line) -> None:
        await line.request()
        await line.send(head.ljust(READ_BYTES, b"x") + LENGTH.replace(b"200", b"401"))
        await line.until_closed()

    async def ask_twice() -> None:
        for _ in range(2):
            response = await ask(pool, peer.origin)
            statuses.append(response.status)
            assert len(await read_all(response)) == 65_494

    async with serving(script, tls=server_tls, host="localhost") as peer:
        task = EagerTask(ask_twice(), asyncio.get_running_loop())
        task.go_on()
        await until(task.done)
        assert (statuses, peer.connections) == ([200, 200], 2)


@on_both_loops
@pytest.mark.parametrize("size", [11, READ_BYTES - 42])
async def test_it_reuses_no_connection_whose_end_waits_within_tls(size, pool, server_tls):
    """The provider's close_notify comes in the read of its answer, whose caller asks again in that very read."""
    received = []

    async def script(line: Line) -> None:
        await line.request()
        line.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %05d\r\n\r\n" % size + b"x" * size)
        await line.fin()

    async def ask_again() -> None:
        for _ in range(3):
            received.append(len(await read_all(await ask(pool, peer.origin))))

    async with serving(script, tls=server_tls, host="localhost") as peer:
        task = EagerTask(ask_again(), asyncio.get_running_loop(), lambda error: received.append(error))
        task.go_on()
        await until(task.done)
        assert (received, peer.connections) == ([size, size, size, None], 3)


LONG = b"a" * 200_000
VIOLATIONS = {
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nraw",
    "both": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both-reversed": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two-lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "length-list": b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\nabcd",
    "length-negative": b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabcd",
    "length-huge": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\nabcd",
    "coding-gzip": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
    "coding-list": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding-twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding-in-1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "interim-with-body": b"HTTP/1.1 103 Early Hints\r\nContent-Length: 3\r\n\r\nabc" + LENGTH,
    "http2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status-600": b"HTTP/1.1 600 No\r\nContent-Length: 0\r\n\r\n",
    "status-099": b"HTTP/1.1 099 No\r\nContent-Length: 0\r\n\r\n",
    "not-http": b"SSH-2.0-OpenSSH_9.2\r\n",
    "bare-cr": b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
    "nul": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
    "space-before-colon": b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
    "long-field": b"HTTP/1.1 200 OK\r\nX: " + LONG,
    "long-reason": b"HTTP/1.1 200 " + LONG,
    "long-fields": b"HTTP/1.1 200 OK\r\n" + b"".join(b"x%d: %b\r\n" % (i, b"a" * 1_000) for i in range(70)) + b"\r\n",
    "many-fields": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 101 + b"\r\n",
    "endless-interim": INTERIM * 3_000,
}


@pytest.mark.parametrize("kind", VIOLATIONS)
@on_both_loops
async def test_it_refuses_what_is_not_one_well_formed_head(kind, pool):
    async with serving(answering(VIOLATIONS[kind])) as peer:
        with pytest.raises(ProtocolViolation) as failure:
            await ask(pool, peer.origin)
        assert failure.value.request_sent
        assert pool.idle_connections == 0


@pytest.mark.parametrize("wire", [CHUNKED[:-2] + b"x: " + LONG, CHUNKED[:-5] + b"1;" + LONG, CHUNKED[:-5] + b"zz\r\n"])
@on_both_loops
async def test_it_bounds_and_checks_what_frames_a_body(wire, pool):
    async with serving(answering(wire)) as peer:
        response = await ask(pool, peer.origin)
        with pytest.raises(ProtocolViolation):
            await read_all(response)


@on_both_loops
async def test_it_takes_a_head_of_just_the_allowed_size(pool):
    wire = b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%02d: %b\r\n" % (i, b"a" * 640) for i in range(99)) + LENGTH[17 + 11 :]
    async with serving(answering(wire)) as peer:
        response = await ask(pool, peer.origin)
        assert (len(response.headers), await read_all(response)) == (100, b"hello world")
        assert response.headers[0] == (b"x00", b"a" * 640)


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nConnection: close\r\n", b"HTTP/1.0 200 OK\r\n"])
@on_both_loops
async def test_it_does_not_keep_a_connection_that_the_provider_wants_closed(head, pool):
    async with serving(answering(head + b"Content-Length: 2\r\n\r\nhi")) as peer:
        assert await read_all(await ask(pool, peer.origin)) == b"hi"
        assert pool.idle_connections == 0
        assert await read_all(await ask(pool, peer.origin)) == b"hi"
        assert peer.connections == 2


@on_both_loops
@pytest.mark.parametrize("wire", [LENGTH, CHUNKED, UNTIL_CLOSE])
async def test_it_takes_no_body_for_head_even_if_one_comes(wire, pool):
    async with serving(answering(wire)) as peer:
        for _ in range(2):
            response = await ask(pool, peer.origin, b"HEAD")
            assert (response.status, response.complete, await response.read()) == (200, True, b"")
        assert peer.connections == 2


@on_both_loops
async def test_it_survives_garbage_of_every_shape(pool):
    """Any single byte of a good answer replaced: an answer or an UpstreamError, never a hang or another exception."""
    wires = iter([CHUNKED[:i] + bytes([b]) + CHUNKED[i + 1 :] for i in range(len(CHUNKED)) for b in b"\0\r\n:9"])
    count = len(CHUNKED) * 5

    async def script(line: Line) -> None:
        await line.request()
        await line.send(next(wires))
        await line.cut()

    async with serving(script) as peer:
        for _ in range(count):
            with contextlib.suppress(UpstreamError):
                await read_all(await ask(pool, peer.origin))
            await turns(10)  # until the peer has closed
        assert len(peer.requests) == count
    assert pool.idle_connections == 0


@on_both_loops
@pytest.mark.parametrize("answer", [LENGTH, LENGTH[:-1]], ids=["whole", "cut"])
async def test_it_needs_no_collector_to_forget_a_connection_with_tls(pool, server_tls, answer):
    gc.disable()
    try:
        async with serving(answering(answer), tls=server_tls, host="localhost") as peer:
            response = await ask(pool, peer.origin)
            known = [weakref.ref(connection) for connection in pool._connections]
            response.abort()
            await pool.close()
        await turns()
        assert [ref() for ref in known] == [None]
    finally:
        gc.enable()
