"""One request and its answer as the ASGI application sees them: `receive`, `send`, and what their misuse means.

Owns the answer's framing and the rule that a client which left is an error (`ClientGone`), never a silent no-op.
Knows nothing of time-outs, limits or the next request on the connection: those are the protocol's (proxy/server.py).
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from proxy.framing import Refused

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

    from proxy.server import ProxyProtocol

logger = logging.getLogger(__name__)

# Above this much unread body, or unsent answer, the other side waits.
HIGH_WATER = 65_536
# In the scope's `extensions`: `on_disconnect(callback)` of this request.
ON_DISCONNECT = "aiproxy.on_disconnect"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class ClientGone(OSError):
    """The client's connection is closed or was given up: nothing more can be sent."""


class Cycle:
    """From a parsed request head to the last byte of the answer."""

    __slots__ = (
        "_body",
        "_bodyless",
        "_chunked",
        "_head",
        "_left",
        "_protocol",
        "_unread",
        "_when_left",
        "continue_due",
        "disconnected",
        "flow",
        "keep_alive",
        "message_event",
        "more_body",
        "response_complete",
        "response_started",
        "scope",
        "transport",
    )

    def __init__(self, protocol: "ProxyProtocol", scope: Any, *, keep_alive: bool, continue_due: bool) -> None:
        self._protocol = protocol
        self.scope = scope
        self.transport: asyncio.Transport = protocol.transport
        self.flow: FlowControl = protocol.flow
        self.keep_alive = keep_alive
        self.continue_due = continue_due
        self.message_event = asyncio.Event()
        self.disconnected = False
        self.more_body = True
        self.response_started = False
        self.response_complete = False
        self._body: list[bytes] = []
        self._unread = 0
        self._head = b""  # goes out with the first piece of the body: one write, and one packet for most answers
        self._chunked = False
        self._bodyless = False
        self._left: int | None = None  # of a declared content-length
        self._when_left: Callable[[], None] | None = None
        scope["extensions"] = {ON_DISCONNECT: self.on_disconnect}

    async def run(self, app: "ASGI3Application") -> None:
        try:
            await app(self.scope, self.receive, self.send)  # type: ignore[arg-type]
        except ClientGone:
            pass
        except asyncio.CancelledError:
            if not self.response_complete:  # else the connection may already serve the next request
                self._fail()
            raise
        except Exception:
            logger.exception("The application failed")
        else:
            if not self.response_started and not self.disconnected:
                logger.error("The application returned without an answer")
        if not self.response_complete:
            self._fail()

    def _fail(self) -> None:
        """Answer 500 if nothing was sent; else close without the final chunk, which tells the client that it is cut."""
        if self.response_started or self.disconnected:
            self._protocol.cut()
        else:
            self._protocol.refuse(Refused(500, "internal_error", "The server failed to answer this request."))

    def add_body(self, body: bytes) -> bool:
        """Keep a piece for the application; True when it should read before more comes."""
        self._body.append(body)
        self._unread += len(body)
        self.message_event.set()
        return self._unread > HIGH_WATER

    def end_body(self) -> None:
        self.more_body = False
        self.message_event.set()

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
        self.message_event.set()

    async def receive(self) -> dict[str, Any]:
        if self.continue_due and not self.disconnected:
            self.continue_due = False
            if not self._body and not self.transport.is_closing():
                self.transport.write(CONTINUE)
        if not self.disconnected and not self.response_complete:
            if self.more_body:
                self._protocol.want_body()
            if not self.message_event.is_set():
                await self.message_event.wait()
            self.message_event.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._unread = 0
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        """Raises ClientGone when the client left, RuntimeError when the message breaks ASGI's order or the framing."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected or (self.transport.is_closing() and not self.response_complete):
            raise ClientGone("the client closed the connection")
        kind = message["type"]
        if not self.response_started:
            if kind != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{kind}'.")
            self._send_head(message["status"], message.get("headers", ()))
        elif kind != "http.response.body" or self.response_complete:
            raise RuntimeError(f"Unexpected ASGI message '{kind}'.")
        else:
            self._send_body(message.get("body", b""), last=not message.get("more_body", False))

    def _send_head(self, status: int, headers: Any) -> None:
        protocol = self._protocol
        keep_alive = self.keep_alive and protocol.may_keep_alive()
        self.continue_due = False
        parts = [STATUS_LINE[status]]
        for name, value in protocol.server_state.default_headers:
            parts += (name, b": ", value, b"\r\n")
        for name, value in headers:
            name = name.lower()
            if name == b"content-length":
                self._left = int(value)
            elif name == b"connection":
                keep_alive = keep_alive and b"close" not in value.lower()
                continue
            elif name == b"transfer-encoding":
                continue
            parts += (name, b": ", value, b"\r\n")
        self._bodyless = self.scope["method"] == "HEAD" or status in (204, 304)
        if self._left is None and not self._bodyless:
            if self.scope["http_version"] == "1.1":
                self._chunked = True
                parts += (b"transfer-encoding", b": ", b"chunked", b"\r\n")
            else:
                keep_alive = False
        if not keep_alive:
            parts += (b"connection", b": ", b"close", b"\r\n")
        parts.append(b"\r\n")
        head = b"".join(parts)
        # Counting is enough to refuse a value that would start a field, or an answer, of its own.
        lines = (len(parts) + 6) // 4
        if head.count(b"\n") != lines or head.count(b"\r") != lines or b"\0" in head:
            raise RuntimeError("A response header contains CR, LF or NUL.")
        self.keep_alive = keep_alive
        self.response_started = True
        self._head = head

    def _send_body(self, body: bytes, *, last: bool) -> None:
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
            self.response_complete = True
            self.message_event.set()
            self._protocol.response_completed()
