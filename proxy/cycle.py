"""One request and its answer as the application sees them: ASGI's `receive` and `send`, and what their misuse means.

The data plane finds the Cycle itself behind `receive`, and spares the messages.

Owns the answer's framing and the rule that a client which left is an error (`ClientGone`), never a silent no-op.
Knows nothing of time-outs, limits or the next request on the connection: those are the protocol's (proxy/server.py).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from proxy.eager import EagerTask, Waiter, waiter
from proxy.framing import Head, Refused

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

    from proxy.server import ProxyProtocol

logger = logging.getLogger(__name__)

# Above this much unread body, or unsent answer, the other side waits.
HIGH_WATER = 65_536
# What is ours to say; of the connection the application may say that it wants it closed.
_FRAMING = frozenset({b"connection", b"transfer-encoding", b"content-length"})
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def cycle_of(receive: Any) -> "Cycle":
    """Whose `receive` this is."""
    cycle: Cycle = receive.__self__
    return cycle


def lines(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Header fields as they go out. RuntimeError for a value that would start a field, or an answer, of its own."""
    if not headers:
        return b""
    # b": ".join(field) makes a line without a Python frame for each; counting is enough to find what is no part of it.
    joined = b"\r\n".join(map(b": ".join, headers)) + b"\r\n"
    if not joined.count(b"\r") == joined.count(b"\n") == len(headers) or joined.find(b"\0") >= 0:
        raise RuntimeError("A response header contains CR, LF or NUL.")
    return joined


class ClientGone(OSError):
    """The client's connection is closed or was given up: nothing more can be sent."""


class Cycle:
    """From a parsed request head to the last byte of the answer."""

    __slots__ = (
        "_bodyless",
        "_chunked",
        "_head",
        "_left",
        "_news",
        "_pieces",
        "_protocol",
        "_unread",
        "_waiter",
        "_when_left",
        "continue_due",
        "disconnected",
        "flow",
        "head",
        "keep_alive",
        "length",
        "more_body",
        "response_complete",
        "response_started",
        "task",
        "transport",
    )

    def __init__(self, protocol: "ProxyProtocol", head: Head, body: bytes | None, *, keep_alive: bool) -> None:
        """`body`: the whole of it, if it is here already."""
        self._protocol = protocol
        self.head = head
        self.transport: asyncio.Transport = protocol.transport
        self.flow: FlowControl = protocol.flow
        self.keep_alive = keep_alive
        self.continue_due = head.continue_due
        self.more_body = body is None
        self._news = body is not None  # of the body or the client, since `receive` was called
        self._pieces = [] if body is None else [body]
        self._unread = 0
        self.length = 0  # of a body that was not here as a whole: in bytes, or CHUNKED
        self.task: EagerTask | asyncio.Task[None] | None = None  # that runs it
        self._waiter: Waiter[None] | asyncio.Future[None] | None = None  # of `receive`
        self._when_left: Callable[[], None] | None = None
        self.disconnected = self.response_started = self.response_complete = False
        self._head = b""  # goes out with the first piece of the body: one write, and one packet for most answers
        self._chunked = self._bodyless = False
        self._left: int | None = None  # of a declared content-length

    def run_eagerly(self, app: "ASGI3Application", scope: Any) -> None:
        """Until the application waits for the first time; it ends later."""
        protocol = self._protocol
        try:
            coroutine: Any = app(scope, self.receive, self.send)  # type: ignore[arg-type]
        except Exception as error:
            self._ended(error)
            return
        self.task = task = EagerTask(coroutine, protocol.loop, self._ended)
        protocol.tasks.add(task)  # type: ignore[arg-type]
        task.go_on()

    async def run(self, app: "ASGI3Application", scope: Any) -> None:
        try:
            await app(scope, self.receive, self.send)  # type: ignore[arg-type]
        except BaseException as error:
            self._ended(error)
            if not isinstance(error, Exception):
                raise
        else:
            self._ended(None)

    def _ended(self, error: BaseException | None) -> None:
        """The application has returned, or raised this."""
        self._protocol.tasks.discard(self.task)  # type: ignore[arg-type]
        self.task = self._when_left = self._waiter = None  # they know us: what is no cycle needs no collector
        if isinstance(error, Exception) and not isinstance(error, ClientGone):
            logger.error("The application failed", exc_info=error)
        elif error is None and not self.response_started and not self.disconnected:
            logger.error("The application returned without an answer")
        if not self.response_complete:  # else the connection may already serve the next request
            self._fail()

    def _fail(self) -> None:
        """Answer 500 if nothing was sent; else close without the final chunk, which tells the client that it is cut."""
        if self.response_started or self.disconnected:
            self._protocol.cut()
        else:
            self._protocol.refuse(Refused(500, "internal_error", "The server failed to answer this request."))

    def add_body(self, body: bytes) -> bool:
        """Keep a piece for the application, to be told of later; True when it should read before more comes."""
        self._pieces.append(body)
        self._unread += len(body)
        return self._unread > HIGH_WATER

    def end_body(self) -> None:
        self.more_body = False
        self.tell()

    def tell(self) -> None:
        """There is news of the body or the client. An application that waits for it may run at once."""
        self._news = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Have this called when the client leaves before its answer is complete: cheaper than a task in `receive`."""
        self._when_left = callback
        if self.disconnected:
            callback()

    def disconnect(self) -> None:
        if not self.response_complete:
            self.disconnected = True
            if self._when_left is not None:
                self._when_left()
        self._protocol.loop.call_soon(self.tell)

    async def receive(self) -> dict[str, Any]:
        if self.continue_due and not self.disconnected:
            self.continue_due = False
            if not self._pieces and not self.transport.is_closing():
                self.transport.write(CONTINUE)
        if not self.disconnected and not self.response_complete:
            if self.more_body:
                self._protocol.want_body()
            if not self._news:
                self._waiter = waiter(self._protocol.loop)
                await self._waiter
            self._news = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self._take_body(), "more_body": self.more_body}

    def whole_body(self) -> bytes | None:
        """The body, if all of it is here; else None: `receive` it."""
        return None if self.more_body or self.disconnected else self._take_body()

    def _take_body(self) -> bytes:
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._pieces = []
        self._unread = 0
        return body

    async def send(self, message: Any) -> None:
        """Raises ClientGone when the client left, RuntimeError when the message breaks ASGI's order or the framing."""
        if self.flow.write_paused:
            await self.ready()
        if self.disconnected or (self.transport.is_closing() and not self.response_complete):
            raise ClientGone("the client closed the connection")
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{kind}'.")
            self.start(message["status"], message.get("headers", ()))
        elif kind != "http.response.body" or self.response_complete:
            raise RuntimeError(f"Unexpected ASGI message '{kind}'.")
        else:
            self.write(message.get("body", b""), last=not message.get("more_body", False))

    async def ready(self) -> None:
        """To be awaited before more is written while `flow.write_paused`: the client takes less than it is sent."""
        if not self.disconnected:
            await self.flow.drain()

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The answer's head, as the application names its fields. Raises RuntimeError."""
        fields = [(name.lower(), value) for name, value in headers]
        named = dict(fields)
        if b"close" in named.get(b"connection", b"").lower():
            self.keep_alive = False
        length = named.get(b"content-length")
        kept = lines([field for field in fields if field[0] not in _FRAMING])
        self.begin(status, kept, None if length is None else int(length))

    def begin(self, status: int, fields: bytes, length: int | None = None) -> None:
        """The answer's head: it goes out with what is written first. `fields` are `lines` that say nothing of the
        framing; `length` is the body's in bytes, if it is known."""
        framing = b""
        self._left = length
        self._bodyless = self.head.line.method == "HEAD" or status in (204, 304)
        if length is not None and status != 204:  # RFC 9110, 8.6
            framing = b"content-length: %d\r\n" % length
        elif not self._bodyless and self.head.line.version == "1.1":
            self._chunked = True
            framing = b"transfer-encoding: chunked\r\n"
        self._head = self._begun(status, fields, framing, b"")

    def answer(self, status: int, fields: bytes, body: bytes) -> None:
        """The whole answer at once. Raises ClientGone, RuntimeError."""
        size = len(body)
        if size > HIGH_WATER or self.head.line.method == "HEAD" or status in (204, 304):
            self.begin(status, fields, size)
            self.write(body, last=True)
            return
        if self.disconnected or self.transport.is_closing():
            raise ClientGone("the client closed the connection")
        self.transport.write(self._begun(status, fields, b"content-length: %d\r\n" % size, body))
        self._completed()

    def _begun(self, status: int, fields: bytes, framing: bytes, body: bytes) -> bytes:
        protocol = self._protocol
        if not (self.keep_alive and protocol.may_keep_alive()):
            self.keep_alive = False
            framing += b"connection: close\r\n"
        self.continue_due = False
        self.response_started = True
        return b"".join((STATUS_LINE[status], protocol.default_fields(), fields, framing, b"\r\n", body))

    def _completed(self) -> None:
        self.response_complete = True
        if self._waiter is not None:
            self.tell()
        self._protocol.response_completed(self)

    def write(self, body: bytes, *, last: bool = False) -> None:
        """A piece of the answer's body. Raises ClientGone, RuntimeError."""
        if self.disconnected or self.transport.is_closing():
            raise ClientGone("the client closed the connection")
        head, self._head = self._head, b""
        if self._bodyless:
            body = b""
        elif self._chunked:
            if body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            if last:
                body += b"0\r\n\r\n"
        elif self._left is not None:
            self._left -= len(body)
            if self._left < 0:
                self.transport.write(head)
                raise RuntimeError("The answer is longer than its Content-Length.")
        if head and len(body) > HIGH_WATER:
            self.transport.write(head)
        else:
            body = head + body
        if body:
            self.transport.write(body)
        if last and self._left and not self._bodyless:
            raise RuntimeError("The answer is shorter than its Content-Length.")
        if last:
            self._completed()
