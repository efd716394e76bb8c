"""A scripted provider on a real socket: the script decides every byte, every segment and how the connection ends."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import uvloop

from proxy.upstream import Origin, Pool


class Line:
    """One accepted connection, as the script sees it."""

    def __init__(self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peer = peer
        self.reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """The next request, head and body as sent. EOFError when the client has left."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        self.peer.requests.append(head)
        body = b""
        if b"\r\ncontent-length: " in head:
            body = await self.reader.readexactly(int(head.split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0]))
        elif b"\r\ntransfer-encoding: chunked" in head:
            while not body.endswith(b"0\r\n\r\n"):
                body += await self.reader.readuntil(b"\r\n")
        self.peer.requests[-1] += body
        return head + body

    async def send(self, *segments: bytes) -> None:
        """Each segment is read by the client in a read of its own: both share a loop, and loopback delivers at once."""
        for segment in segments:
            self.writer.write(segment)
            await turns()

    async def fin(self) -> None:
        """A clean end; under TLS with close_notify."""
        self.writer.close()
        await turns()

    async def cut(self) -> None:
        """FIN alone: under TLS without close_notify."""
        self.writer.transport.abort()
        await turns()

    async def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
        await turns()

    async def until_closed(self) -> None:
        """Returns when the client has closed; what it sends before that is dropped."""
        with contextlib.suppress(OSError):
            while await self.reader.read(65_536):
                pass
        self.peer.closed_by_client += 1


Script = Callable[[Line], Awaitable[None]]


class Peer:
    def __init__(self, script: Script, origin: Origin) -> None:
        self.script = script
        self.origin = origin
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed_by_client = 0
        self.tasks: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self.script(Line(self, reader, writer))
        except (EOFError, OSError, asyncio.CancelledError):
            pass  # a cancelled script is the end of its test
        finally:
            self.tasks.discard(task)
            writer.transport.abort()


@contextlib.asynccontextmanager
async def serving(script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[Peer]:
    peer = Peer(script, Origin("http", host, 0))
    server = await asyncio.start_server(peer.accept, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    peer.origin = Origin("https" if tls else "http", host, port)
    try:
        yield peer
    finally:
        server.close()
        for task in tuple(peer.tasks):
            task.cancel()
        if peer.tasks:
            await asyncio.wait(tuple(peer.tasks))
        await turns()


def answering(*segments: bytes) -> Script:
    """Every request gets the same segments; the connection stays open."""

    async def script(line: Line) -> None:
        while True:
            await line.request()
            await line.send(*segments)

    return script


@functools.cache
def _system_trust() -> ssl.SSLContext:
    return ssl.create_default_context()


def new_pool(**options: Any) -> Pool:
    """As Pool(), but reading the system's certificates once a run rather than once a test."""
    return Pool(**{"ssl_context": _system_trust(), **options})


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await turns(1)  # a socket's event: there is nothing else to wait on


async def turns(count: int = 4) -> None:
    """Lets the loop poll its sockets: what was written before is read by the other side after this."""
    for _ in range(count):
        await asyncio.sleep(0)


async def loopback(_host: str, port: int) -> list[tuple[int, int, int, str, object]]:
    """A resolver for names in certificates."""
    return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]


@contextlib.contextmanager
def deaf_port() -> Iterator[int]:
    """A listening socket with a full backlog: the kernel drops every further SYN, so connecting stalls."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


def on_both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Runs an async test under uvloop and under asyncio's loop, which differ in TLS, pausing and closing; then closes
    the pool that the test took."""

    def run(loop: str, **arguments: Any) -> None:
        async def main() -> None:
            try:
                await test(**arguments)
            finally:
                if "pool" in arguments:
                    await arguments["pool"].close()

        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(main())

    functools.update_wrapper(run, test)
    signature = inspect.signature(test)
    first = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = signature.replace(parameters=[first, *signature.parameters.values()])  # type: ignore[attr-defined]
    return pytest.mark.parametrize("loop", LOOPS)(run)
