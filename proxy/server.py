"""The HTTP/1.1 server side: what an ASGI application cannot do for itself.

Owns one client connection: limits on the request head, every time-out, back-pressure in both directions, one request at
a time, and closing so that the client sees the answer. What a request means is decided in proxy/framing.py, what the
application sees in proxy/cycle.py. Knows no Django: the worker sets `ProxyProtocol.limits`.
"""

import asyncio
import json
import math
import select
import socket
import struct
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from proxy.cycle import HIGH_WATER, ClientGone, Cycle, lines
from proxy.framing import (
    BARE_LF,
    HEAD_END,
    UPGRADE_FIELD,
    ChunkedEnd,
    Head,
    Refused,
    RequestLine,
    malformed,
    parse_request_line,
)
from proxy.server_limits import Limits, Watch

__all__ = ["ClientGone", "Limits", "ProxyProtocol"]

# What a connection is doing: collecting a request head; receiving the body; waiting for the application's answer;
# passing over the rest of an unwanted request so that the client reads the answer; sending its last bytes.
HEAD, BODY, ANSWER, LINGER, CLOSED = range(5)

# A refused body of at most this many bytes is passed over and the connection kept; of a longer one it is closed.
DISCARDABLE = 65_536
# Up to here a copy costs less than a view.
COPIED = 4_096
# Digits of a body's length, and the CR after them.
LENGTH_DIGITS = 19


_defaults: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")  # fields of every answer, and their lines


class ProxyProtocol(HttpToolsProtocol):
    """One client connection under uvicorn; use as `uvicorn.Config(http=ProxyProtocol)`."""

    # With these beside uvicorn's own an instance's dictionary would be too large to be shared, and every look-up slow.
    __slots__ = (
        "_asgi",
        "_body_left",
        "_chunked",
        "_closing",
        "_deadline",
        "_head",
        "_head_seen",
        "_line",
        "_linger_left",
        "_message_seen",
        "_parser_keep_alive",
        "_pending",
        "_phase",
        "_raw_line",
        "_unsent",
        "_write_deadline",
    )

    limits: ClassVar[Limits] = Limits()
    # What is asked below this path runs as EagerTasks, all else as asyncio's. Its requests with the same head share one
    # scope, which is not to be written to.
    eager_path: ClassVar[str] = "/v1/"
    _watches: ClassVar[WeakKeyDictionary[ServerState, Watch]] = WeakKeyDictionary()

    cycle: Cycle | None  # type: ignore[assignment]
    # The parser calls what is there: the request line is read from the head in one piece.
    on_message_begin = None  # type: ignore[assignment]
    on_url = None  # type: ignore[assignment]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.headers = []
        self._asgi = {"version": self.asgi_version, "spec_version": "2.4"}
        self._phase = HEAD
        self._pending = bytearray()  # an incomplete head, or what came after the request being served
        self._deadline = math.inf
        self._write_deadline = math.inf
        self._unsent = 0
        self._closing = False
        self._head_seen = False
        self._message_seen = False
        self._parser_keep_alive = False
        self._body_left = 0
        self._chunked: ChunkedEnd | None = None
        self._linger_left = 0
        self._raw_line = b""
        self._line: RequestLine
        self._head: Head | None = None  # of the request before, if the next one may have the same

    # --- The connection ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=HIGH_WATER)
        watch = self._watches.get(self.server_state)
        if watch is None:
            watch = self._watches[self.server_state] = Watch(self.loop, self.connections)
        watch.start(self.limits.tick)
        self._deadline = self.loop.time() + self.limits.header_timeout
        if len(self.connections) > self.limits.connections:
            watch.full(self.limits.connections)
            if len(self.connections) > self.limits.connections + self.limits.connections_refused:
                self.abort()
            else:
                self.refuse(Refused(503, "overloaded", "The server has too many connections; try again shortly."))

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)
        self._phase = CLOSED
        self._pending.clear()
        cycle, self.cycle = self.cycle, None  # it knows us: what is no cycle needs no collector
        if cycle is not None:
            cycle.disconnect()
        self.flow.resume_writing()
        self.transport.close()
        self.parser = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        phase = self._phase
        if phase == HEAD:
            if self._pending:
                self._collect_head(data)
            elif self._head is not None and data.startswith(self._head.before):
                self._start_alike(self._head, data)
            else:
                self._start_or_collect(data)
        elif phase == BODY:
            self._take_body(data, 0)
        elif phase == ANSWER:
            self._keep(data)
        elif phase == LINGER:
            self._linger_left -= len(data)
            if self._linger_left < 0:
                # No close yet: that would reset the connection, and take the answer from who reads it while sending.
                self.flow.pause_reading()

    def _start_alike(self, head: Head, data: bytes) -> None:
        """`data` begins as the head of the request before; that is all, mostly, but for the length of the body."""
        start = len(head.before)
        stop = data.find(b"\r", start, start + LENGTH_DIGITS)
        if stop > start and data.startswith(head.after, stop):
            digits = data[start:stop]
            if digits.isdigit():
                self._begin(head, data, stop + len(head.after), int(digits))
                return
        self._start_or_collect(data)

    def _start_or_collect(self, data: bytes) -> None:
        if data[0] != 13 and (end := data.find(HEAD_END)) > 0:
            self._start(data, end + 4)
        else:
            self._collect_head(data)

    def _keep(self, data: bytes) -> None:
        """Bytes of a next request wait unparsed. Only a flood stops the reading: it also shows when a client leaves."""
        self._pending += data
        if len(self._pending) > self.limits.head:
            self.flow.pause_reading()

    # --- The request head ----------------------------------------------------------------------------

    def _collect_head(self, data: bytes) -> None:
        pending = self._pending
        searched = max(len(pending) - 3, 0)
        first = not pending
        pending += data
        while pending.startswith(b"\r\n"):  # RFC 9112 §2.2: empty lines before a request are passed over
            del pending[:2]
            searched = 0
        if not pending:
            return
        if first:
            self._deadline = min(self._deadline, self.loop.time() + self.limits.header_timeout)
        end = pending.find(HEAD_END, searched)
        if end >= 0:
            complete = bytes(pending)
            pending.clear()
            self._start(complete, end + 4)
            return
        try:
            self._check_incomplete(searched)
        except Refused as refused:
            self.refuse(refused, pending)

    def _check_incomplete(self, searched: int) -> None:
        pending = self._pending
        if BARE_LF.search(pending, searched) or not (65 <= pending[0] <= 90 or pending == b"\r"):
            raise malformed("This is not an HTTP/1.1 request: lines must end with CRLF.")
        if len(pending) > self.limits.target and pending.find(b"\r\n", 0, self.limits.target) < 0:
            raise Refused(414, "uri_too_long", f"The request target is longer than {self.limits.target} bytes.")
        if len(pending) > self.limits.head:
            raise self._head_too_large()

    def _head_too_large(self) -> Refused:
        message = f"The request head may have {self.limits.head} bytes and {self.limits.fields} fields."
        return Refused(431, "request_head_too_large", message)

    def _start(self, data: bytes, end: int) -> None:
        """`data` begins with a complete head of `end` bytes."""
        try:
            head = self._read_head(data if end == len(data) else data[:end])
        except Refused as refused:
            self.refuse(refused, data)
        except httptools.HttpParserError as error:
            self.refuse(malformed(f"The request is not valid HTTP/1.1: {error}."), data)
        else:
            self._head = head if head.is_eager and head.before else None  # others read the length in the fields
            self._begin(head, data, end, head.length)

    def _read_head(self, data: bytes) -> Head:
        limits = self.limits
        raw_line = data[: data.find(b"\r\n")]
        if raw_line != self._raw_line:  # most clients ask for one thing only
            self._line = parse_request_line(raw_line, limits.target)
            self._raw_line = raw_line
        # The request line and the empty line end with LF too.
        if len(data) > limits.head or data.count(b"\n") > limits.fields + 2:
            raise self._head_too_large()
        fields = self._parse_head(data)
        head = Head(self._line, fields, data, keep_alive=self._parser_keep_alive)
        if not self._head_seen or self._message_seen is not (head.length == 0):
            raise malformed("The request's framing is ambiguous.")
        if head.length > 0:
            self.parser = httptools.HttpRequestParser(self)  # bytes that are only counted do not pass through it
        head.scope = self._scope(head)
        head.is_eager = head.line.path.startswith(self.eager_path)
        return head

    def _parse_head(self, head: bytes) -> list[tuple[bytes, bytes]]:
        headers = self.headers = []
        self._head_seen = self._message_seen = False
        try:
            self.parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            # The answer to an offer to change protocols may be plain HTTP/1.1, but the parser would drop the body: it
            # reads the same head again without the offer; a new one, as it reads nothing after a head that says close.
            self.parser = httptools.HttpRequestParser(self)
            headers.clear()
            self._head_seen = self._message_seen = False
            self.parser.feed_data(UPGRADE_FIELD.sub(b"", head))
        self.headers = []  # the parser reports trailers as headers: into a list that nobody reads
        return headers

    def _scope(self, head: Head) -> dict[str, Any]:
        line = head.line
        return {
            "type": "http",
            "asgi": self._asgi,
            "http_version": line.version,
            "method": line.method,
            "scheme": self.scheme,
            "path": line.path,
            "raw_path": line.raw_path,
            "query_string": line.query,
            "root_path": "",
            "headers": head.fields,
            "server": self.server,
            "client": self.client,
        }

    def _begin(self, head: Head, data: bytes, end: int, length: int) -> None:
        """`length`: of the body, which begins at `end`; or CHUNKED."""
        stop, size = end + length, len(data)
        is_whole = 0 <= length <= size - end
        keep_alive = head.keep_alive and not self._closing
        self.cycle = cycle = Cycle(self, head, data[end:stop] if is_whole else None, keep_alive=keep_alive)
        if is_whole:
            if stop < size:
                self._keep(data[stop:])
            self._deadline = math.inf
            self._phase = ANSWER
        else:
            self._phase = BODY
            self._chunked = ChunkedEnd() if length < 0 else None
            self._body_left = cycle.length = length
            self._deadline = self.loop.time() + self.limits.body_idle_timeout
            if end < size:
                self._take_body(data, end)
        if head.is_eager:
            cycle.run_eagerly(self.app, head.scope)
        else:
            scope = head.scope | {"state": self.app_state.copy()}
            cycle.task = self.loop.create_task(cycle.run(self.app, scope))
            self.tasks.add(cycle.task)

    # --- The body ------------------------------------------------------------------------------------

    def _take_body(self, data: bytes, start: int) -> None:
        try:
            stop, done = self._count_body(data, start) if self._chunked is None else self._decode_body(data, start)
        except Refused as refused:
            self.refuse(refused)
        except httptools.HttpParserError as error:
            self.refuse(malformed(f"The request's body is not valid HTTP/1.1: {error}."))
        else:
            if done:
                self._message_done(data, stop)
            elif self.cycle is not None and not self.cycle.response_complete:
                self._deadline = self.loop.time() + self.limits.body_idle_timeout
                self.cycle.tell()

    def _count_body(self, data: bytes, start: int) -> tuple[int, bool]:
        """Where what is the body's ends in `data`, and whether that is its end."""
        stop = min(len(data), start + self._body_left)
        self._body_left -= stop - start
        self.on_body(data if stop - start == len(data) else data[start:stop])
        return stop, self._body_left == 0

    def _decode_body(self, data: bytes, start: int) -> tuple[int, bool]:
        assert self._chunked is not None
        stop = self._chunked.scan(data, start)
        done = stop >= 0
        if not done:
            stop = len(data)
        if stop - start == len(data):
            self.parser.feed_data(data)
        elif stop - start <= COPIED:
            self.parser.feed_data(data[start:stop])
        else:
            self.parser.feed_data(memoryview(data)[start:stop])
        if self._message_seen is not done:
            raise malformed("The body's framing is ambiguous.")
        return stop, done

    def _message_done(self, data: bytes, end: int) -> None:
        assert self.cycle is not None
        if self.flow.read_paused:
            self.flow.resume_reading()  # there is no more of it to hold back, and it shows when the client leaves
        if self._chunked is not None:
            self.parser = httptools.HttpRequestParser(self)  # this one heeds what a trailer says of the connection
        if end < len(data):
            self._keep(data[end:])
        self._deadline = math.inf
        self._phase = ANSWER
        if self.cycle.response_complete:
            self._next()
        else:
            self.cycle.end_body()

    def want_body(self) -> None:
        """The application reads: a client that was held back may go on, and has its full time again."""
        if self._phase == BODY:
            self.flow.resume_reading()
            self._deadline = self.loop.time() + self.limits.body_idle_timeout

    # --- Called by the parser --------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self._head_seen = True
        self._parser_keep_alive = self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and not cycle.disconnected and cycle.add_body(body):
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        self._message_seen = True

    # --- The answer ------------------------------------------------------------------------------------

    def may_keep_alive(self) -> bool:
        """Whether the connection can serve another request after an answer that starts now."""
        if self._closing:
            return False
        if self._phase != BODY or self.cycle is None:
            return True
        return self._chunked is None and self._body_left <= DISCARDABLE and not self.cycle.continue_due

    def default_fields(self) -> bytes:
        """What every answer says: the date, that is; uvicorn makes a new list of it each second."""
        defaults = self.server_state.default_headers
        global _defaults
        if defaults is not _defaults[0]:
            _defaults = defaults, lines(defaults)
        return _defaults[1]

    def response_completed(self, cycle: Cycle) -> None:
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if not cycle.keep_alive or self._closing:
            self._finish()
        elif self._phase == BODY:
            self.flow.resume_reading()
            self._deadline = self.loop.time() + self.limits.linger_timeout
        else:
            self._next()

    def _next(self) -> None:
        if self._pending:
            # Not from here: ten thousand of them would be as deep. Until then what comes is kept behind them.
            self.loop.call_soon(self._start_pending)
        else:
            self._await_head()

    def _await_head(self) -> None:
        self._phase = HEAD
        self._deadline = self.loop.time() + self.limits.keepalive_timeout
        if self.flow.read_paused:
            self.flow.resume_reading()  # whoever has enough of it pauses it again

    def _start_pending(self) -> None:
        if self._phase == ANSWER:
            data = bytes(self._pending)
            self._pending.clear()
            self._await_head()
            self.data_received(data)
            if self._closing:  # said meanwhile, and empty lines begin nothing
                self.shutdown()

    def cut(self) -> None:
        """Close in the middle of an answer; what was written still goes out."""
        if self._phase not in (LINGER, CLOSED) and not self.transport.is_closing():
            self._finish()

    def refuse(self, refused: Refused, begun: bytes | bytearray = b"") -> None:
        """Answer in the application's place and close; in the middle of an answer, only close. `begun`: what is here of
        a request that has no cycle yet."""
        if self._phase in (LINGER, CLOSED) or self.transport.is_closing():
            return
        cycle = self.cycle if self._phase != HEAD else None
        if cycle is not None:
            cycle.disconnect()
        if cycle is None or not cycle.response_started:
            head, body = self._render(refused)
            is_head = begun.startswith(b"HEAD ") if cycle is None else cycle.head.line.method == "HEAD"
            self.transport.write(head if is_head else head + body)
        self._linger()

    def _render(self, refused: Refused) -> tuple[bytes, bytes]:
        kind = "invalid_request_error" if refused.status < 500 else "server_error"
        error = {"message": refused.message, "type": kind, "param": None, "code": refused.code}
        body = json.dumps({"error": error}).encode()
        head = [STATUS_LINE[refused.status], self.default_fields()]
        head.append(b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body))
        head.append(b"x-aiproxy-error-source: proxy\r\nconnection: close\r\n")
        if refused.status == 503:
            head.append(b"retry-after: 1\r\n")
        return b"".join([*head, b"\r\n"]), body

    # --- Closing ---------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Close; first pass over what the client may still be sending: unread bytes turn a close into a reset."""
        if self._phase == BODY or self._pending or self.flow.read_paused:
            self._linger()
        else:
            self.close()

    def _linger(self) -> None:
        self._phase = LINGER
        self._pending.clear()
        self._linger_left = self.limits.linger
        self._deadline = self.loop.time() + self.limits.linger_timeout
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()

    def close(self) -> None:
        self._phase = CLOSED
        self._deadline = self.loop.time() + self.limits.write_timeout
        if self.cycle is not None:
            self.cycle.disconnect()
        self.transport.close()

    def abort(self) -> None:
        """Reset the connection: a plain close would leave unsent bytes in the kernel as long as the client likes."""
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._phase = CLOSED
        self._deadline = math.inf
        if self.cycle is not None:
            self.cycle.disconnect()
        self.transport.abort()

    def shutdown(self) -> None:
        """The server stops: an idle connection closes now, any other after the request in hand."""
        self._closing = True
        if self._phase == HEAD and not self._pending:
            self.close()
        elif self._phase == BODY and self.cycle is not None and self.cycle.response_complete:
            self._finish()  # what is still to come is passed over

    # --- Time ------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        self.flow.pause_writing()
        self._unsent = self.transport.get_write_buffer_size()
        self._write_deadline = self.loop.time() + self.limits.write_timeout

    def resume_writing(self) -> None:
        self._write_deadline = math.inf
        self.flow.resume_writing()

    def check_time(self, now: float) -> None:
        """Called every tick: gives up a client that takes nothing or has left unseen, and ends a phase whose time is
        over."""
        if self._write_deadline != math.inf:
            unsent = self.transport.get_write_buffer_size()
            if unsent < self._unsent:
                self._unsent = unsent
                self._write_deadline = now + self.limits.write_timeout
            elif now >= self._write_deadline:
                self.abort()
        if now >= self._deadline:
            self._expire(now)
        elif self.flow.read_paused and self._phase in (BODY, ANSWER) and self._has_left():
            self.abort()

    def _has_left(self) -> bool:
        """Asks the kernel, where nobody reads up to the client's end: not before it has taken all that comes before."""
        if self.transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def _expire(self, now: float) -> None:
        cycle = self.cycle
        if self._phase == HEAD:
            if self._pending:
                refused = Refused(408, "request_timeout", "The request head did not arrive in time.")
                self.refuse(refused, self._pending)
            else:
                self.close()
        elif self._phase == BODY and cycle is not None and not cycle.response_complete:
            if self.flow.read_paused or cycle.continue_due:  # it is the application that lets the client wait
                self._deadline = now + self.limits.body_idle_timeout
            else:
                self.refuse(Refused(408, "request_timeout", "The request body stopped arriving."))
        elif self._phase == CLOSED:
            self.abort()
        else:
            self.close()
