"""The upstream HTTP/1.1 client: one exchange with a provider, on a pooled connection per origin.

Owns the pool, address resolution, connecting, TLS and the HTTP CONNECT tunnel, and how a request head is written.
`proxy.connection` owns what happens on one socket. Must not know of tenants, keys, retries, models or Django.
There are no redirects, cookies, environment proxies or decompression: bytes go through as they are.

    pool = Pool()
    async with await pool.send(Origin("https", "api.example.com", 443), b"POST", b"/v1/x", headers, body) as response:
        while chunk := await response.read(): ...
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from proxy.connection import READ_BYTES, Connection, Response, Stream, Timeouts
from proxy.upstream_errors import (
    BodyCut,
    ConnectFailed,
    ConnectTimeout,
    Disconnected,
    FirstByteTimeout,
    IdleTimeout,
    ProtocolViolation,
    TLSFailed,
    TLSTimeout,
    UpstreamError,
    WriteFailed,
    WriteTimeout,
)

__all__ = [
    "BodyCut",
    "ConnectFailed",
    "ConnectTimeout",
    "Disconnected",
    "FirstByteTimeout",
    "IdleTimeout",
    "Line",
    "Origin",
    "Pool",
    "ProtocolViolation",
    "Resolver",
    "Response",
    "Stream",
    "TLSFailed",
    "TLSTimeout",
    "Timeouts",
    "UpstreamError",
    "WriteFailed",
    "WriteTimeout",
    "prepare",
]

# What goes out in one write; larger bodies follow in slices, so that TLS does not hold the loop for the whole of it.
ONE_WRITE_BYTES = 65_536
SLICE_BYTES = 131_072
PROXY_HEAD_BYTES = 16_384
DEFAULT_TIMEOUTS = Timeouts()

Body = bytes | Sequence[bytes] | Stream
AddressInfo = tuple[int, int, int, str, Any]  # as of socket.getaddrinfo: family, type, protocol, name, address
Resolver = Callable[[str, int], Awaitable[Sequence[AddressInfo]]]


class Origin(NamedTuple):
    """Where to connect: "http" or "https", a host name or IP literal without brackets, a port. (Hashed per request.)"""

    scheme: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Line:
    """How many requests begin: where they go, and their request line with the fields that are the same in all of them.
    `prepare` makes one, checked."""

    origin: Origin
    start: bytes
    has_body: bool  # its length is told though it is 0
    head_only: bool


class _Peer:
    """What the pool holds for one origin. `open` counts connections being made, busy and idle."""

    __slots__ = ("idle", "open", "origin", "waiters")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.idle: list[Connection] = []  # a stack: the last one used is the least likely to have died
        self.open = 0
        self.waiters: deque[asyncio.Future[None]] = deque()


class Pool:
    """All connections of one event loop. Make it after fork; use it in one loop only."""

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        connect_proxy: Origin | None = None,
        idle_timeout: float = 30.0,
        max_idle_per_origin: int = 256,
        max_connections_per_origin: int | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        """`ssl_context` must verify names and chains (it gets ALPN http/1.1); `connect_proxy` is a plain-HTTP CONNECT
        proxy, which then resolves the names; `resolver` takes the place of getaddrinfo and may refuse by OSError."""
        if connect_proxy is not None and connect_proxy.scheme != "http":
            raise ValueError("connect_proxy: only http:// proxies are supported")
        self._ssl_context = _verifying(ssl_context or ssl.create_default_context())
        self._connect_proxy = connect_proxy
        self._idle_timeout = idle_timeout
        self._max_idle = max_idle_per_origin
        self._max_connections = max_connections_per_origin
        self._resolver = resolver
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._peers: dict[Origin, _Peer] = {}
        self._connections: dict[Connection, _Peer] = {}
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._emptied = asyncio.Event()  # after `close`

    async def send(
        self,
        origin: Origin,
        method: bytes,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: Body = b"",
        *,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        on_send: Callable[[], None] | None = None,
    ) -> Response:
        """One request in one call: see `prepare` and `ask`."""
        return await self.ask(prepare(origin, method, target), headers, body, timeouts=timeouts, on_send=on_send)

    async def ask(
        self,
        line: Line,
        headers: Sequence[tuple[bytes, bytes]],
        body: Body = b"",
        *,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        on_send: Callable[[], None] | None = None,
    ) -> Response:
        """Sends one request and returns when the head of the answer is here. Host, Connection and framing fields are
        ours: ValueError for these, and for anything that would not be one well-formed head, before anything is sent.
        Raises UpstreamError; cancelling at any point closes the connection. Close or read out every Response.
        `on_send` is called just before the first byte goes out: who is cancelled earlier has sent nothing."""
        first, rest = _encode(line, headers, body)
        connection = await self._acquire(line.origin, timeouts)
        # No await between the check of the connection and its first write.
        if on_send is not None:
            on_send()
        response = connection.send(first, timeouts, head_only=line.head_only)
        if rest is not None:
            await connection.upload(rest, response)
        await response.arrive()
        return response

    def ask_at_once(
        self, line: Line, headers: Sequence[tuple[bytes, bytes]], body: Body, timeouts: Timeouts
    ) -> Response | None:
        """The same where a connection is idle and one write will do: it is sent, and has still to `arrive`. Else None:
        nothing is sent."""
        peer = self._peers.get(line.origin)
        if peer is None or not peer.idle or peer.waiters or type(body) is not bytes or len(body) > ONE_WRITE_BYTES:
            return None
        first = _whole(line, _fields(headers), body)
        connection = self._take_idle(peer)
        return None if connection is None else connection.send(first, timeouts, head_only=line.head_only)

    @property
    def open_connections(self) -> int:
        """Connections being made, busy and idle, over all origins."""
        return sum(peer.open for peer in self._peers.values())

    @property
    def idle_connections(self) -> int:
        return sum(len(peer.idle) for peer in self._peers.values())

    async def close(self) -> None:
        """Closes every connection, also those in use, and returns when their descriptors are free."""
        self._closed = True
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        for connection in list(self._connections):
            connection.fail(Disconnected("the pool was closed", request_sent=True))
        for peer in self._peers.values():
            for waiter in peer.waiters:
                if not waiter.done():
                    waiter.set_result(None)
        if self._connections:
            await self._emptied.wait()

    # Idle connections and slots

    def _take_idle(self, peer: _Peer) -> Connection | None:
        idle = peer.idle
        while idle:
            connection = idle.pop()
            if connection.idle_until >= connection.loop.time() and connection.reusable():
                return connection
            connection.abort()
        return None

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _acquire(self, origin: Origin, timeouts: Timeouts) -> Connection:
        """A free connection of a bounded pool, or a new one."""
        our_turn = False
        while not self._closed:
            peer = self._peers.get(origin)  # anew after a wait: the last connection that was lost takes its peer along
            if peer is None:
                peer = self._peers[origin] = _Peer(origin)
            if not peer.waiters or our_turn:
                connection = self._take_idle(peer)
                if connection is not None:
                    return connection
                if self._max_connections is None or peer.open < self._max_connections:
                    return await self._open(peer, timeouts)
            await self._wait_turn(peer)
            our_turn = True
        raise ConnectFailed("the pool is closed")

    async def _wait_turn(self, peer: _Peer) -> None:
        waiter = asyncio.get_running_loop().create_future()
        peer.waiters.append(waiter)
        try:
            await waiter
        except BaseException:
            if not waiter.cancelled():
                self._wake_next(peer)  # the turn was ours; pass it on
            elif waiter in peer.waiters:
                peer.waiters.remove(waiter)
            self._forget_if_unused(peer)
            raise

    def _wake_next(self, peer: _Peer) -> None:
        while peer.waiters:
            waiter = peer.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def _open(self, peer: _Peer, timeouts: Timeouts) -> Connection:
        peer.open += 1
        try:
            connection = await self._dial(peer.origin, timeouts)
            if self._closed or not connection.usable():
                connection.abort()
                raise ConnectFailed(f"{peer.origin.host}: closed as soon as it was opened")
        except BaseException:
            self._free_slot(peer)
            raise
        self._connections[connection] = peer
        connection.on_free = self._freed
        connection.on_lost = self._lost
        return connection

    def _free_slot(self, peer: _Peer) -> None:
        peer.open -= 1
        self._wake_next(peer)
        self._forget_if_unused(peer)

    def _forget_if_unused(self, peer: _Peer) -> None:
        if not peer.open and not peer.waiters and self._peers.get(peer.origin) is peer:
            del self._peers[peer.origin]

    def _freed(self, connection: Connection) -> None:
        peer = self._connections[connection]
        if self._closed or len(peer.idle) >= self._max_idle:
            connection.abort()
            return
        connection.idle_until = connection.loop.time() + self._idle_timeout
        peer.idle.append(connection)
        if peer.waiters:
            self._wake_next(peer)
        if self._sweep_timer is None:
            self._sweep_timer = connection.loop.call_later(self._idle_timeout, self._sweep)

    def _lost(self, connection: Connection) -> None:
        peer = self._connections.pop(connection)
        if connection in peer.idle:
            peer.idle.remove(connection)
        self._free_slot(peer)
        if self._closed and not self._connections:
            self._emptied.set()

    def _sweep(self) -> None:
        """Closes what has been idle too long; one timer for all of them, while there are any."""
        self._sweep_timer = None
        now = self._now()
        for peer in self._peers.values():
            stale = [c for c in peer.idle if c.idle_until <= now]
            peer.idle = [c for c in peer.idle if c.idle_until > now]
            for connection in stale:
                connection.abort()
        if self.idle_connections:
            self._sweep_timer = asyncio.get_running_loop().call_later(self._idle_timeout, self._sweep)

    # Making connections

    async def _dial(self, origin: Origin, timeouts: Timeouts) -> Connection:
        via = self._connect_proxy or origin
        sock = await self._connect_any(await self._resolve(via, timeouts.connect), via, timeouts.connect)
        if self._connect_proxy is not None:
            await _tunnel(sock, origin, timeouts.connect)
        loop = asyncio.get_running_loop()
        name = f"{origin.host}:{origin.port}"

        def protocol() -> Connection:
            return Connection(loop, name, self._buffer)

        if origin.scheme == "http":
            return (await loop.create_connection(protocol, sock=sock))[1]
        return await self._handshake(sock, protocol, origin.host, timeouts.tls)

    async def _resolve(self, via: Origin, seconds: float) -> Sequence[AddressInfo]:
        try:
            async with asyncio.timeout(seconds):
                if self._resolver is not None:
                    addresses = await self._resolver(via.host, via.port)
                else:
                    loop = asyncio.get_running_loop()
                    addresses = await loop.getaddrinfo(
                        via.host, via.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
                    )
        except TimeoutError:
            raise ConnectTimeout(f"{via.host}: name not resolved in {seconds:g} s") from None
        except (OSError, UnicodeError) as error:
            raise ConnectFailed(f"{via.host}: cannot be resolved: {error}") from error
        return addresses

    async def _connect_any(self, addresses: Iterable[AddressInfo], via: Origin, seconds: float) -> socket.socket:
        """The first address that answers; each has its own time-out, so a dead one costs that long and no more."""
        # Made where it is raised: an error that its own frame knows would be a cycle, and keep the request's body.
        failure: tuple[type[UpstreamError], str] = ConnectFailed, f"{via.host}: has no address"
        for family, kind, protocol, _name, address in addresses:
            try:
                return await _connect(family, kind, protocol, address, seconds)
            except TimeoutError:
                failure = ConnectTimeout, f"{via.host}:{via.port}: no connection in {seconds:g} s"
            except OSError as error:
                failure = ConnectFailed, f"{via.host}:{via.port}: {error.strerror or error}"
        raise failure[0](failure[1])

    async def _handshake(
        self, sock: socket.socket, protocol: Callable[[], Connection], host: str, seconds: float
    ) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                _, connection = await loop.create_connection(
                    protocol,
                    sock=sock,
                    ssl=self._ssl_context,
                    server_hostname=host,
                    ssl_handshake_timeout=seconds + 1,  # ours comes first and is told apart from a reset
                )
        except TimeoutError:
            raise TLSTimeout(f"{host}: no TLS handshake in {seconds:g} s") from None
        except ssl.SSLError as error:  # also a certificate that does not verify
            raise TLSFailed(f"{host}: {getattr(error, 'verify_message', '') or error.reason or error}") from error
        except OSError as error:
            raise TLSFailed(f"{host}: connection lost during the TLS handshake") from error
        return connection


def _verifying(context: ssl.SSLContext) -> ssl.SSLContext:
    if context.verify_mode != ssl.CERT_REQUIRED or not context.check_hostname:
        raise ValueError("ssl_context: must verify certificates and host names")
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _connect(family: int, kind: int, protocol: int, address: Any, seconds: float) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A model may think for minutes: without probes, NATs forget the connection meanwhile (AWS: after 350 s).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_KEEPIDLE"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _tunnel(sock: socket.socket, origin: Origin, seconds: float) -> None:
    """RFC 9110, 9.3.6. TLS and HTTP clients speak first, so bytes after the proxy's head are nobody's: refused."""
    loop = asyncio.get_running_loop()
    name = f"[{origin.host}]" if ":" in origin.host else origin.host
    target = f"{name}:{origin.port}".encode("idna")
    head = b""
    try:
        async with asyncio.timeout(seconds):
            await loop.sock_sendall(sock, b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, target))
            while b"\r\n\r\n" not in head and len(head) < PROXY_HEAD_BYTES:
                received = await loop.sock_recv(sock, 4096)
                if not received:
                    raise ConnectFailed("the CONNECT proxy closed the connection")
                head += received
        status = re.match(rb"HTTP/1\.[01] (\d{3})[ \r]", head)
        if status is None or head.find(b"\r\n\r\n") != len(head) - 4:
            raise ConnectFailed("the CONNECT proxy did not answer in HTTP/1.1")
        if not status[1].startswith(b"2"):
            raise ConnectFailed(f"the CONNECT proxy refused with status {status[1].decode()}")
    except TimeoutError:
        sock.close()
        raise ConnectTimeout(f"the CONNECT proxy did not answer in {seconds:g} s") from None
    except OSError as error:
        sock.close()
        raise ConnectFailed(f"the CONNECT proxy: {error.strerror or error}") from error
    except BaseException:
        sock.close()
        raise


# The request on the wire

METHODS = frozenset((b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"HEAD", b"OPTIONS"))
OURS = frozenset(
    b"host content-length transfer-encoding connection keep-alive proxy-connection te trailer upgrade expect".split()
)
_CONTROLS = bytes(set(range(32)) - {9}) + b"\x7f"
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_good_names: set[bytes] = set()
_name_of = itemgetter(0)


def prepare(origin: Origin, method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> Line:
    """`headers` are those of all requests that begin so. ValueError for what would not be one well-formed head."""
    if method not in METHODS:
        raise ValueError(f"method {method!r}")
    if target[:1] != b"/" or target.find(b" ") >= 0 or not target.isascii():
        raise ValueError("target: must be an absolute path, percent-encoded")
    start = b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (method, target, _authority(origin))
    _check_lines(start, 2)
    return Line(origin, start + _fields(headers), method in (b"POST", b"PUT", b"PATCH"), method == b"HEAD")


def _encode(
    line: Line, headers: Sequence[tuple[bytes, bytes]], body: Body
) -> tuple[bytes, Sequence[memoryview] | Stream | None]:
    """The bytes of the first write, and what is to follow it."""
    fields = _fields(headers)
    if isinstance(body, Stream):
        length = body.length
        framing = b"transfer-encoding: chunked\r\n\r\n" if length is None else b"content-length: %d\r\n\r\n" % length
        return line.start + fields + framing, body
    parts = (body,) if isinstance(body, bytes) else tuple(body)
    size = sum(map(len, parts))
    if size <= ONE_WRITE_BYTES:
        return _whole(line, fields, b"".join(parts)), None
    slices = [memoryview(part)[i : i + SLICE_BYTES] for part in parts for i in range(0, len(part), SLICE_BYTES)]
    return b"%b%bcontent-length: %d\r\n\r\n" % (line.start, fields, size), slices


def _whole(line: Line, fields: bytes, body: bytes) -> bytes:
    size = len(body)
    if size or line.has_body:
        return b"%b%bcontent-length: %d\r\n\r\n%b" % (line.start, fields, size, body)
    return line.start + fields + b"\r\n"


def _fields(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A line for each."""
    if not headers:
        return b""
    if not _good_names.issuperset(map(_name_of, headers)):
        _check_names(headers)
    # b": ".join(pair) makes a field line without a Python frame a field.
    fields = b"\r\n".join(map(b": ".join, headers)) + b"\r\n"
    _check_lines(fields, len(headers))
    return fields


def _check_lines(head: bytes, lines: int) -> None:
    if len(head) - len(head.translate(None, _CONTROLS)) != 2 * lines:
        raise ValueError("a control character in the target or in a header")


def _check_names(headers: Sequence[tuple[bytes, bytes]]) -> None:
    for name, _ in headers:
        if name.lower() in OURS:
            raise ValueError(f"header {name!r} is written by the client itself")
        if not _TOKEN(name):
            raise ValueError("a header name that is not a token (RFC 9110, 5.6.2)")
        if len(_good_names) < 1024:
            _good_names.add(name)


@lru_cache(maxsize=1024)
def _authority(origin: Origin) -> bytes:
    scheme, host, port = origin
    if scheme not in ("http", "https") or not 0 < port < 65536:
        raise ValueError(f"origin {scheme}://…:{port}")
    if not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", host):
        raise ValueError("origin: the host must be a plain host name (IDNA-encoded) or an IP literal without brackets")
    name = f"[{host}]" if ":" in host else host
    return (name if port == (443 if scheme == "https" else 80) else f"{name}:{port}").encode()
