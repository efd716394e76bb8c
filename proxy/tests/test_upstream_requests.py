"""What goes out, what stops it, how long we wait, and that leaving early at any point leaves nothing behind."""

import asyncio
import contextlib
import gc
import os
import socket
import weakref
from collections.abc import AsyncIterator

import pytest

from proxy.eager import EagerTask
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
from proxy.upstream import (
    ConnectFailed,
    ConnectTimeout,
    Disconnected,
    FirstByteTimeout,
    IdleTimeout,
    Origin,
    Stream,
    Timeouts,
    UpstreamError,
    WriteFailed,
    WriteTimeout,
)

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno"
LONG = Timeouts(connect=10, tls=10, first_byte=10, idle=10)
BRIEF = Timeouts(connect=0.05, tls=0.05, first_byte=0.05, idle=0.05)


@pytest.fixture
def pool():
    return new_pool(resolver=loopback)


async def ask(pool, origin, body=b"", *, headers=(), method=b"POST", target=b"/v1/x", timeouts=LONG):
    return await pool.send(origin, method, target, list(headers), body, timeouts=timeouts)


async def chunks(*parts):
    for part in parts:
        yield part


async def silence(line: Line) -> None:
    await line.request()
    await line.until_closed()


async def unread(line: Line) -> None:
    """Never reads: the client's writes fill the kernel's buffers and then stall."""
    line.writer.transport.pause_reading()
    await asyncio.Event().wait()


# What goes out


@on_both_loops
async def test_it_writes_one_exact_head_and_the_body(pool):
    async with serving(answering(OK)) as peer:
        await ask(pool, peer.origin, b'{"a":1}', headers=[(b"X-Key", b"v\t1")], target=b"/v1/x?y=%20")
        host = f"127.0.0.1:{peer.origin.port}".encode()
        expected = b"POST /v1/x?y=%20 HTTP/1.1\r\nHost: " + host + b"\r\nX-Key: v\t1\r\ncontent-length: 7\r\n\r\n"
        assert peer.requests == [expected + b'{"a":1}']


@on_both_loops
async def test_it_sends_no_length_for_a_get_without_body(pool):
    async with serving(answering(OK)) as peer:
        await ask(pool, peer.origin, method=b"GET")
        assert b"length" not in peer.requests[0]
        await ask(pool, peer.origin, method=b"POST")
        assert b"\r\ncontent-length: 0\r\n" in peer.requests[1]


@on_both_loops
@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
async def test_it_sends_bodies_in_parts_of_any_size(size, pool):
    parts = [b"a" * (size // 2), b"b" * (size - size // 2)]
    async with serving(answering(OK)) as peer:
        for _ in range(2):
            response = await ask(pool, peer.origin, parts)
            assert await response.read() == b"hi"
            assert peer.requests[-1].endswith(b"\r\n\r\n" + b"".join(parts))
        assert peer.connections == 1


@on_both_loops
@pytest.mark.parametrize(
    ("length", "sent"),
    [
        (None, b"chunked\r\n\r\n5\r\nhello\r\n11\r\n" + b"x" * 17 + b"\r\n0\r\n\r\n"),
        (22, b"content-length: 22\r\n\r\nhello" + b"x" * 17),
    ],
)
async def test_it_sends_a_stream_and_keeps_the_connection(length, sent, pool):
    async with serving(answering(OK)) as peer:
        for _ in range(2):
            body = Stream(chunks(b"hello", b"", b"x" * 17), length)
            assert await (await ask(pool, peer.origin, body)).read() == b"hi"
            assert peer.requests[-1].endswith(sent)
        assert peer.connections == 1


@on_both_loops
@pytest.mark.parametrize("length", [4, 6])
async def test_it_ends_no_request_that_is_not_as_long_as_was_said(length, pool):
    async with serving(silence) as peer:
        with pytest.raises(ValueError, match="not as long"):
            await ask(pool, peer.origin, Stream(chunks(b"hello"), length))
        await turns()
        assert pool.open_connections == 0


BAD_HEADS = {
    "cr": {"headers": [(b"a", b"x\ry")]},
    "lf": {"headers": [(b"a", b"x\ny")]},
    "crlf": {"headers": [(b"a", b"x\r\nb: y")]},
    "nul": {"headers": [(b"a", b"x\0")]},
    "delete": {"headers": [(b"a", b"x\x7f")]},
    "name-crlf": {"headers": [(b"a\r\nb", b"x")]},
    "name-space": {"headers": [(b"a b", b"x")]},
    "name-colon": {"headers": [(b"a:b", b"x")]},
    "name-empty": {"headers": [(b"", b"x")]},
    "host": {"headers": [(b"Host", b"elsewhere")]},
    "length": {"headers": [(b"Content-Length", b"1")]},
    "coding": {"headers": [(b"transfer-encoding", b"chunked")]},
    "connection": {"headers": [(b"connection", b"x-key")]},
    "target-space": {"target": b"/a b"},
    "target-crlf": {"target": b"/a\r\nb: c"},
    "target-absolute": {"target": b"http://elsewhere/"},
    "target-not-ascii": {"target": "/ä".encode()},
    "method": {"method": b"GET /x HTTP/1.1\r\nA: b\r\n\r\nGET"},
    "connect": {"method": b"CONNECT"},
}


@on_both_loops
@pytest.mark.parametrize("kind", BAD_HEADS)
async def test_it_refuses_a_malformed_request_before_it_sends_a_byte(kind, pool):
    async with serving(answering(OK)) as peer:
        with pytest.raises(ValueError):  # noqa: PT011 - which field is wrong is in the message, for people
            await ask(pool, peer.origin, **BAD_HEADS[kind])
        assert (peer.connections, pool.open_connections) == (0, 0)


@pytest.mark.parametrize(
    "origin", [("ftp", "a", 1), ("http", "a b", 80), ("http", "a\r\n", 80), ("http", "a", 0), ("http", "", 1)]
)
async def test_it_refuses_a_malformed_origin(origin):
    with pytest.raises(ValueError, match="origin"):
        await ask(new_pool(), Origin(*origin))


# Early answers


@on_both_loops
@pytest.mark.parametrize("kind", ["bytes", "iterator", "waiting iterator"])
async def test_it_stops_the_upload_at_an_early_refusal_and_closes(kind, pool):
    stopped, returned = asyncio.Event(), asyncio.Event()

    async def body():
        try:
            yield b"x" * 100
            if kind == "waiting iterator":
                await asyncio.Event().wait()
            while True:
                yield b"x" * 65_536
        finally:
            stopped.set()

    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        await line.send(TOO_LARGE[:-2])
        await returned.wait()
        await line.send(TOO_LARGE[-2:])
        await line.until_closed()

    async with serving(script) as peer:
        response = await ask(pool, peer.origin, b"x" * 30_000_000 if kind == "bytes" else Stream(body()))
        returned.set()
        assert (response.status, await response.read()) == (413, b"no")
        await turns()
        assert (pool.idle_connections, kind == "bytes" or stopped.is_set()) == (0, True)


@on_both_loops
async def test_it_finishes_an_upload_whose_answer_begins_early(pool):
    """A transcription may stream while the audio is still going out."""
    begun = asyncio.Event()

    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        await line.send(OK[:-2])
        begun.set()
        received = await line.reader.readuntil(b"0\r\n\r\n")
        await line.send(b"%02d" % received.count(b"part"))

    async def body():
        yield b"part"
        await begun.wait()
        await turns()
        yield b"part"

    async with serving(script) as peer:
        response = await ask(pool, peer.origin, Stream(body()))
        assert await response.read() == b"02"


@on_both_loops
async def test_it_passes_on_what_the_body_raises_and_closes(pool):
    async def body():
        yield b"x"
        raise ConnectionAbortedError("the client left")

    async with serving(silence) as peer:
        with pytest.raises(ConnectionAbortedError, match="the client left"):
            await ask(pool, peer.origin, Stream(body()))
        await turns()
        assert pool.open_connections == 0


# Back-pressure


@on_both_loops
@pytest.mark.parametrize("coding", ["length", "chunked", "tiny chunks"])
async def test_it_holds_at_most_256_kib_for_a_slow_reader(coding, pool):
    size = 8_000_000

    async def script(line: Line) -> None:
        await line.request()
        line.writer.write(b"HTTP/1.1 200 OK\r\n")
        if coding == "length":
            line.writer.write(b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
        elif coding == "chunked":
            line.writer.write(b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n")
        else:
            line.writer.write(b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * size + b"0\r\n\r\n")
        await line.writer.drain()
        await line.until_closed()

    async with serving(script) as peer:
        response = await ask(pool, peer.origin)
        await turns(100)
        assert len(response._chunks) <= 4_096 + 65_536 // 6  # each is an object
        received = most = 0
        while True:
            await turns(6)
            most = max(most, response.buffered)
            part = await response.read()
            received += len(part)
            if not part or (coding == "tiny chunks" and received > 200_000):
                break
        assert 0 < most <= 262_144
        assert received == size or coding == "tiny chunks"
        response.abort()


@on_both_loops
async def test_it_hands_out_what_is_buffered_without_waiting(pool):
    more = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        await line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na", b"b")
        await more.wait()
        await line.send(b"cd")

    async with serving(script) as peer:
        response = await ask(pool, peer.origin)
        await turns()
        assert [response.try_read(), response.try_read(), response.complete] == [b"ab", None, False]
        more.set()
        assert await response.read() == b"cd"
        assert [response.try_read(), await response.read(), response.complete] == [b"", b"", True]


# Time-outs


@on_both_loops
async def test_it_gives_up_on_a_connect_that_stalls(pool):
    with deaf_port() as port, pytest.raises(ConnectTimeout) as failure:
        await ask(pool, Origin("http", "127.0.0.1", port), timeouts=BRIEF)
    assert (failure.value.request_sent, pool.open_connections) == (False, 0)


@on_both_loops
@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_it_gives_up_on_a_head_that_stalls(head, pool):
    async def script(line: Line) -> None:
        await line.request()
        await line.send(head)
        await line.until_closed()

    async with serving(script) as peer:
        with pytest.raises(FirstByteTimeout) as failure:
            await ask(pool, peer.origin, timeouts=Timeouts(5, 5, 0.05, 5))
        await turns()
        assert (failure.value.request_sent, pool.open_connections, peer.closed_by_client) == (True, 0, 1)


@on_both_loops
async def test_it_gives_up_on_a_body_that_falls_silent(pool):
    async def script(line: Line) -> None:
        await line.request()
        await line.send(OK[:-1])
        await line.until_closed()

    async with serving(script) as peer:
        response = await ask(pool, peer.origin, timeouts=Timeouts(5, 5, 5, 0.05))
        assert await response.read() == b"h"
        with pytest.raises(IdleTimeout):
            await response.read()
        await turns()
        assert (pool.open_connections, peer.closed_by_client) == (0, 1)


@on_both_loops
async def test_it_gives_up_on_a_provider_that_takes_no_more_of_the_request(pool):
    async with serving(unread) as peer:
        with pytest.raises(WriteTimeout) as failure:
            await ask(pool, peer.origin, b"x" * 30_000_000, timeouts=Timeouts(5, 5, 5, 0.05))
        assert failure.value.request_sent


@on_both_loops
async def test_it_gives_up_on_an_upload_that_is_stuck_after_the_beginning_of_an_early_answer(pool):
    async def script(line: Line) -> None:
        line.writer.transport.pause_reading()
        for segment in (OK[:-2], OK[-2:-1]):
            await turns(50)  # the upload has filled the kernel's buffers
            await line.send(segment)
        await asyncio.Event().wait()

    async with serving(script) as peer:
        sending = ask(pool, peer.origin, b"x" * 30_000_000, timeouts=Timeouts(5, 5, 5, 0.05))
        response = await asyncio.wait_for(sending, 5)
        assert await response.read() == b"h"
        with pytest.raises(IdleTimeout):
            await response.read()


@on_both_loops
async def test_it_does_not_count_the_time_out_of_an_earlier_exchange(pool):
    """One timer serves all exchanges of a connection: the one of the first fires while the second waits."""
    fired = asyncio.Event()

    async def script(line: Line) -> None:
        await line.request()
        await line.send(OK)
        await line.request()
        asyncio.get_running_loop().call_later(0.1, fired.set)
        await fired.wait()
        await line.send(OK)

    async with serving(script) as peer:
        await (await ask(pool, peer.origin, timeouts=Timeouts(5, 5, 0.05, 5))).read()
        assert await (await ask(pool, peer.origin)).read() == b"hi"
        assert peer.connections == 1


# Lost connections and cancellation


@on_both_loops
async def test_it_notices_a_provider_that_leaves_while_the_request_is_stuck(pool):
    async def script(line: Line) -> None:
        await line.reader.readuntil(b"\r\n\r\n")
        line.writer.transport.pause_reading()
        line.writer.write_eof()
        await asyncio.Event().wait()

    async with serving(script) as peer:
        with pytest.raises(WriteFailed) as failure:
            await ask(pool, peer.origin, b"x" * 30_000_000)
        assert (type(failure.value), failure.value.request_sent) == (WriteFailed, True)


@on_both_loops
@pytest.mark.parametrize("ending", ["fin", "reset"])
async def test_it_never_repeats_a_request_whose_connection_died_after_the_write(ending, pool):
    """The first exchange succeeds, so the second goes over a pooled connection, as a naive client would retry."""

    async def script(line: Line) -> None:
        await line.request()
        await line.send(OK)
        await line.request()
        await getattr(line, ending)()

    async with serving(script) as peer:
        await ask(pool, peer.origin)
        with pytest.raises(Disconnected) as failure:
            await ask(pool, peer.origin)
        assert (failure.value.request_sent, len(peer.requests), peer.connections) == (True, 2, 1)


def descriptors(peer):
    """Open files of this process, without the peer's own ends of connections."""
    return len(os.listdir("/proc/self/fd")) - len(peer.tasks)


async def cancelled_when(condition, operation):
    """Cancels `operation` in the first turn in which `condition` holds."""
    task = asyncio.ensure_future(operation)
    while not condition():
        assert not task.done(), task
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def never(*_address):
    await asyncio.Event().wait()


@on_both_loops
@pytest.mark.parametrize("state", ["resolving", "connecting", "tls", "writing", "iterating", "head", "body"])
async def test_it_frees_everything_when_cancelled(state):
    pool = new_pool(resolver=never if state == "resolving" else loopback)

    async def body_stalls(line: Line) -> None:
        await line.request()
        await line.send(OK[:-1])
        await line.until_closed()

    async def stalled_body():
        yield b"x"
        await never()

    async def exchange(origin):
        body = {"writing": b"x" * 8_000_000, "iterating": Stream(stalled_body())}.get(state, b"")
        response = await ask(pool, origin, body)
        while await response.read():
            pass

    script = {"body": body_stalls, "writing": unread, "tls": unread}.get(state, silence)
    with deaf_port() as deaf:
        async with serving(script) as peer:
            scheme = "https" if state == "tls" else "http"
            origin = Origin(scheme, "localhost", deaf if state == "connecting" else peer.origin.port)
            await cancelled_when(lambda: pool.open_connections == 1, exchange(origin))
            await turns(6)
            before = descriptors(peer)
            for extra in range(75):  # times seven states: more than 500 cancels, at many depths
                task = asyncio.ensure_future(exchange(origin))
                await turns(extra % 14)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await turns(10)
            assert (descriptors(peer) - before, pool.open_connections) == (0, 0)


@on_both_loops
async def test_it_frees_everything_when_an_answer_is_abandoned(pool):
    async with serving(answering(OK[:-1])) as peer:
        async with await ask(pool, peer.origin) as response:
            pass
        with pytest.raises(UpstreamError):
            while await response.read():
                pass
        await turns()
        assert pool.open_connections == 0


@on_both_loops
@pytest.mark.parametrize("segments", [[OK[:-1]], [OK[:-2], OK[-2:-1]]], ids=["here already", "yet to come"])
async def test_it_closes_when_who_takes_an_answer_fails(segments, pool):
    async def script(line: Line) -> None:
        await line.request()
        await line.send(*segments)
        await line.until_closed()

    def fail(_data: bytes) -> bool:
        raise ValueError("not taken")

    async with serving(script) as peer:
        response = await ask(pool, peer.origin)
        with pytest.raises(ValueError, match="not taken"):
            await response.pass_to(fail)
        await turns()
        assert (pool.open_connections, peer.closed_by_client) == (0, 1)


@on_both_loops
async def test_it_needs_no_collector_to_forget_a_body_that_went_nowhere(pool):
    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"

    async with serving(answering()) as nobody:
        pass
    body = pieces()
    known = weakref.ref(body)
    gc.disable()
    try:
        with contextlib.suppress(ConnectFailed):
            await pool.send(nobody.origin, b"POST", b"/", (), Stream(body, 1))
        del body
        await turns()
        assert known() is None
    finally:
        gc.enable()


@on_both_loops
async def test_it_needs_no_collector_to_forget_an_answer_that_was_not_taken(pool):
    waited_for, known, ended = asyncio.Event(), [], []

    async def script(line: Line) -> None:
        await line.request()
        await line.send(OK[:-2])
        await waited_for.wait()
        await line.send(OK[-2:-1])

    def fail(_data: bytes) -> bool:
        raise ValueError

    async def relay() -> None:
        response = await ask(pool, peer.origin)
        known.append(weakref.ref(response))
        waited_for.set()
        await response.pass_to(fail)

    gc.disable()
    try:
        async with serving(script) as peer:
            EagerTask(relay(), asyncio.get_running_loop(), lambda error: ended.append(type(error))).go_on()
            await until(lambda: ended)
        assert (ended, known[0]()) == ([ValueError], None)
    finally:
        gc.enable()


@on_both_loops
async def test_it_sets_nodelay_and_keepalive(pool):
    async with serving(answering(OK)) as peer:
        await ask(pool, peer.origin)
        (connection,) = pool._connections
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
