"""One connection to Redis that answers in order: what is asked during one turn of the loop leaves in one write.

Owns the socket, the time-out and the pairing of replies with messages. Must not know scripts, limits or when to
reconnect. Replies carry no number, only a position, so a connection that missed one is never used again.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol, cast
from urllib.parse import parse_qs, unquote, urlsplit

import hiredis

from proxy.limits import LimiterAway

logger = logging.getLogger(__name__)

Arguments = tuple[str | int | bytes, ...]
# The stub of hiredis describes a tuple of one element.
pack = cast("Callable[[Arguments], bytes]", hiredis.pack_command)
# Time for the loop to read its sockets once before a reply is called missing: uvloop runs timers before input, so after
# a turn that took long the reply may be here already, unread; or the request has only just been written.
_SECOND_LOOK = 0.01
# A settlement waits this long for a request to travel with: each write wakes Redis up.
LINGER = 0.002
# No key is cached here: what the server tells then is that all keys have gone at once. Before Redis 6, or denied by its
# ACL, it tells nothing.
FOLLOW = (("HELLO", "3"), ("CLIENT", "TRACKING", "ON", "OPTIN"))


class Message(Protocol):
    """What is sent, and who hears of it. It is packed as it leaves: until then it may grow."""

    def packed(self) -> bytes: ...

    def received(self, reply: Any) -> None:
        """The reply, a hiredis.ReplyError included; texts are bytes."""
        ...

    def lost(self, reason: str) -> None:
        """There will be none. Whoever has to be told is told later: the connection is still being taken down."""
        ...


class _Call:
    """One command, and somebody who waits for its reply."""

    __slots__ = ("_command", "reply")

    def __init__(self, command: Arguments, loop: asyncio.AbstractEventLoop) -> None:
        self._command = command
        self.reply: asyncio.Future[Any] = loop.create_future()

    def packed(self) -> bytes:
        return pack(self._command)

    def received(self, reply: Any) -> None:
        if not self.reply.done():
            self.reply.set_result(reply)

    def lost(self, reason: str) -> None:
        if not self.reply.done():
            self.reply.set_exception(LimiterAway(reason))


@dataclass(frozen=True, slots=True)
class Address:
    """Where Redis is, from redis://, rediss:// or unix://; the password stays out of repr()."""

    host: str = "localhost"
    port: int = 6379
    path: str = ""
    tls: bool = False
    db: int = 0
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    ca_file: str = ""
    verify: bool = True

    @classmethod
    def parse(cls, url: str) -> "Address":
        """As redis-py reads them, with ?db=, ?ssl_ca_certs=, ?ssl_cert_reqs=none. ValueError repeats no part of it."""
        try:
            parts = urlsplit(url)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            local = parts.scheme == "unix"
            number = int(query.get("db") or ("" if local else parts.path.strip("/")) or "0")
            port = 6379 if parts.port is None else parts.port
            if not port:
                raise ValueError
        except ValueError:
            raise ValueError("Not a Redis URL: its host, port or database number cannot be read") from None
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError("A Redis URL starts with redis://, rediss:// or unix://")
        return cls(
            host=parts.hostname or "localhost",
            port=port,
            path=unquote(parts.path) if local else "",
            tls=parts.scheme == "rediss",
            db=number,
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            ca_file=query.get("ssl_ca_certs", ""),
            verify=query.get("ssl_cert_reqs", "required") != "none",
        )

    def __str__(self) -> str:
        return self.path or f"{self.host}:{self.port}"

    def greeting(self) -> list[tuple[str, ...]]:
        """What a new connection says before anything else."""
        commands: list[tuple[str, ...]] = []
        if self.password:
            commands.append(("AUTH", self.username, self.password) if self.username else ("AUTH", self.password))
        if self.db:
            commands.append(("SELECT", str(self.db)))
        return commands


class Connection(asyncio.Protocol):
    """`on_lost(reason)` is called once, after every message that still waited was told; `on_emptied()` each time that a
    database of the server has lost all its keys, ours or another, if it tells."""

    def __init__(
        self, *, timeout: float, on_lost: Callable[["Connection", str], None], on_emptied: Callable[[], None]
    ) -> None:
        self.closed = False
        self._timeout = timeout
        self._on_lost = on_lost
        self._on_emptied = on_emptied
        self.loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[float, Message]] = deque()  # since when
        self._out: list[Message] = []
        self._is_urgent = False  # what is in _out leaves at the end of this turn
        self._linger: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._overdue: tuple[float, Message] | None = None

    def post(self, message: Message) -> None:
        """In order with all else, but nobody waits: it leaves with the next that is urgent, or LINGER later."""
        if self.closed:
            message.lost("not connected")
            return
        self._out.append(message)
        self._waiting.append((self.loop.time(), message))
        if self._timer is None:
            self._timer = self.loop.call_later(self._timeout, self._check)
        if self._linger is None:
            self._linger = self.loop.call_later(LINGER, self._lingered)

    def urge(self) -> None:
        """What was posted leaves at the end of this turn of the loop, in one write."""
        if not self._is_urgent:
            self._is_urgent = True
            self.loop.call_soon(self._flush)

    async def call(self, *command: str | int | bytes) -> Any:
        """The reply, a hiredis.ReplyError included; LimiterAway when the connection goes first."""
        call = _Call(command, self.loop)
        self.post(call)
        self.urge()
        return await call.reply

    def hurry(self, timeout: float) -> None:
        """From now on, this long for a reply."""
        self._timeout = timeout
        if self._timer is not None:
            self._timer.cancel()
            self._check()

    def drop(self, reason: str) -> None:
        """Close at once. Whoever waits is told; a reply that is still under way is never read."""
        if self.closed:
            return
        self.closed = True
        for timer in (self._timer, self._linger):
            if timer is not None:
                timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._out.clear()
        waiting, self._waiting = self._waiting, deque()
        for _, message in waiting:
            message.lost(reason)
        self._on_lost(self, reason)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        if self.closed:
            return
        try:
            self._reader.feed(data)
            while not self.closed and (reply := self._reader.gets()) is not False:
                if type(reply) is hiredis.PushNotification:
                    self._on_emptied()
                else:
                    self._waiting.popleft()[1].received(reply)
        except (hiredis.ProtocolError, IndexError):
            self.drop("it does not speak the Redis protocol")

    def connection_lost(self, exc: Exception | None) -> None:
        self.drop("connection lost")

    def _lingered(self) -> None:
        """A flush meanwhile does not put it off: to be early for a later one costs less than a timer for each."""
        self._linger = None
        self._flush()

    def _flush(self) -> None:
        self._is_urgent = False
        if self._out and self._transport is not None:
            try:
                packed = [message.packed() for message in self._out]
            except Exception:
                logger.exception("What cannot be packed is not sent to Redis")
                packed = self._packed_each()
            self._transport.write(b"".join(packed))
            self._out.clear()

    def _packed_each(self) -> list[bytes]:
        """Without those that cannot be packed: they are lost alone."""
        packed, lost = [], []
        for message in self._out:
            try:
                packed.append(message.packed())
            except Exception:
                lost.append(message)
        self._waiting = deque(entry for entry in self._waiting if entry[1] not in lost)
        for message in lost:
            self.loop.call_soon(message.lost, "it cannot be packed")
        return packed

    def _check(self) -> None:
        """One timer for all: it follows the oldest request that waits, and is gone while none does."""
        self._timer = None
        if not self._waiting:
            return
        oldest = self._waiting[0]
        left = oldest[0] + self._timeout - self.loop.time()
        if left <= 0 and oldest is self._overdue:
            self.drop(f"no reply within {self._timeout * 1000:.0f} ms")
            return
        self._overdue = oldest if left <= 0 else None
        self._timer = self.loop.call_later(max(left, _SECOND_LOOK), self._check)


async def connect(
    address: Address, *, timeout: float, on_lost: Callable[[Connection, str], None], on_emptied: Callable[[], None]
) -> Connection:
    """Connected, authenticated and in its database; LimiterAway says why not."""
    loop = asyncio.get_running_loop()

    def protocol() -> Connection:
        return Connection(timeout=timeout, on_lost=on_lost, on_emptied=on_emptied)

    try:
        async with asyncio.timeout(timeout):
            if address.path:
                _, connection = await loop.create_unix_connection(protocol, address.path)
            else:
                context = _ssl_context(address.ca_file, verify=address.verify) if address.tls else None
                _, connection = await loop.create_connection(protocol, address.host, address.port, ssl=context)
    except (OSError, TimeoutError) as exc:
        raise LimiterAway(f"cannot connect: {_reason(exc)}") from None
    try:
        for command in address.greeting():
            reply = await connection.call(*command)
            if isinstance(reply, hiredis.ReplyError):
                raise LimiterAway(f"{command[0]} refused: {str(reply).split(' ')[0]}")
        for command in FOLLOW:
            await connection.call(*command)
    except BaseException:
        connection.drop("not used")
        raise
    return connection


@cache
def _ssl_context(ca_file: str, *, verify: bool) -> ssl.SSLContext:
    """Reading the trust roots takes milliseconds: once a process, not once an attempt."""
    context = ssl.create_default_context(cafile=ca_file or None)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _reason(exc: Exception) -> str:
    if isinstance(exc, TimeoutError):
        return "time-out"
    return getattr(exc, "strerror", None) or type(exc).__name__
