"""One HTTP/1.1 connection to a provider: framing, flow control, time-outs, and the truth about what was sent.

Owns the bytes of one socket from the first `write()` to the last byte of an answer. httptools finds fields and chunks;
where a message ends, what may follow it and how large a head may be is decided here (RFC 9112, sections 6 to 9).
Knows nothing of pools, addresses, TLS set-up, retries, tenants or Django; `proxy.upstream` is the public face.

A body without a length ends by FIN over plain TCP, but over TLS by close_notify only (RFC 8446, 6.1): uvloop reports no
`eof_received` for a bare FIN, asyncio does, so the TLS object itself is asked. A truncated one is a `BodyCut`.
CR and LF after the end of an answer that come in the same read are dropped by the parser; they carry nothing.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httptools

from proxy.eager import Waiter, waiter
from proxy.upstream_errors import (
    BodyCut,
    Disconnected,
    FirstByteTimeout,
    IdleTimeout,
    ProtocolViolation,
    UpstreamError,
    WriteFailed,
    WriteTimeout,
)

MAX_HEAD_BYTES = 65_536
MAX_HEAD_FIELDS = 100
READ_BYTES = 65_536
# One more read may land after the mark, so this much waits here: <= 128 KiB. As much again is on its way through the
# exchange and in the client's transport while a client does not read.
HIGH_WATER_BYTES = 131_072 - READ_BYTES
# Bounds the per-object overhead when a provider sends one-byte chunks.
HIGH_WATER_CHUNKS = 4_096

IDLE, HEAD, BODY, DONE, CLOSED = range(5)
_NO_FIELDS: Mapping[bytes, bytes] = {}


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `connect` per address, `first_byte` from the end of the request to the end of the answer's head, `idle`
    while someone waits for body bytes and none come (and while the provider takes none of ours)."""

    connect: float = 5.0
    tls: float = 5.0
    first_byte: float = 600.0
    idle: float = 300.0


@dataclass(frozen=True, slots=True)
class Stream:
    """A request's body that comes in pieces; without a `length` in bytes it goes out chunked."""

    pieces: AsyncIterator[bytes]
    length: int | None = None


class Response:
    """An answer whose head is complete. Field names are lower case, in the order received; trailers are dropped."""

    __slots__ = (
        "__weakref__",
        "_chunks",
        "_connection",
        "_failure",
        "_taker",
        "buffered",
        "complete",
        "error",
        "fields",
        "headers",
        "status",
        "timeouts",
    )

    def __init__(self, connection: Connection, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
        self.status = 0
        self.headers: Sequence[tuple[bytes, bytes]] = ()
        self.fields: Mapping[bytes, bytes] = _NO_FIELDS  # by name, with the last value of what stands several times
        self.complete = False  # the last body byte has arrived (it may still be buffered)
        self.buffered = 0  # body bytes held for the reader
        self.error: UpstreamError | None = None
        self._connection: Connection | None = connection
        self._chunks: list[bytes] = []
        self._taker: Callable[[bytes], bool] | None = None
        self._failure: Exception | None = None  # of the taker

    async def arrive(self) -> None:
        """Returns when the head is complete. Raises UpstreamError; cancelling closes the connection."""
        while not self.status:
            if self.error is not None:
                raise self.error
            connection = self._connection
            assert connection is not None  # neither complete nor failed
            try:
                await connection.wait(self.timeouts.first_byte)
            except BaseException:
                self.abort()
                raise

    async def read(self) -> bytes:
        """All body bytes at hand, waiting for some if there are none; b"" is the true end. Raises BodyCut, IdleTimeout,
        ProtocolViolation once what came before has been handed out. Cancelling closes the connection."""
        while not self._chunks:
            if self.complete:
                return b""
            if self.error is not None:
                raise self.error
            connection = self._connection
            assert connection is not None  # neither complete nor failed
            try:
                await connection.wait(self.timeouts.idle)
            except BaseException:
                self.abort()
                raise
        return self._take()

    async def pass_to(self, take: Callable[[bytes], bool]) -> bool:
        """Hands what comes to `take` at once, in the callback of the socket, until that is True: enough for now. False
        is the true end. Raises as `read()` does, and what `take` raises; then, and when cancelled, it is over."""
        try:
            while True:
                if self._chunks:
                    if take(self._take()):
                        return True
                elif self.complete:
                    return False
                elif self.error is not None:
                    raise self.error
                else:
                    connection = self._connection
                    assert connection is not None  # neither complete nor failed
                    self._taker = take
                    if await connection.wait(self.timeouts.idle):
                        if self._failure is not None:
                            raise self._failure
                        return True
        except BaseException:
            self._failure = None  # its traceback knows us: what is no cycle needs no collector
            self.abort()
            raise
        finally:
            self._taker = None

    def whole(self) -> bytes | None:
        """The body, if all of it is here and none was read; else None: `read()` it."""
        return self._take() if self.complete and self._chunks else None

    def try_read(self) -> bytes | None:
        """What `read()` could return now without waiting: bytes, b"" at the end, None if nothing came or it failed."""
        if self._chunks:
            return self._take()
        return b"" if self.complete else None

    def _take(self) -> bytes:
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.buffered = 0
        if self._connection is not None and self._connection.reading_paused:
            self._connection.resume()
        return data

    def abort(self) -> None:
        """Closes the connection at once, unless the body is complete (then the pool has it back already)."""
        if self._connection is not None:
            self._connection.fail(BodyCut("the answer was abandoned before its end", request_sent=True))

    async def __aenter__(self) -> Response:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.abort()


class Connection(asyncio.BufferedProtocol):
    """The protocol of one socket, with one exchange at a time; `on_free` and `on_lost` tell whoever holds it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, buffer: memoryview) -> None:
        # `buffer` is shared by all connections of a loop: both loops fill and hand it over without a step in between.
        self.loop = loop
        self._buffer = buffer
        self.name = name
        self.state = IDLE
        self.idle_until = 0.0  # as the loop tells the time; its holder's
        self.reading_paused = False
        self.on_free: Callable[[Connection], None] | None = None
        self.on_lost: Callable[[Connection], None] | None = None
        self._parser: Any = None
        self._poll = select.poll()
        self._transport: Any = None
        self._tls: ssl.SSLObject | None = None
        self._telling_of: ssl.SSLObject | None = None  # TLS that may have read more than the answer that it hands over
        self._response: Response | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._slack = 0  # bytes read since the last body byte: bounds heads, 1xx heads, trailers and chunk extensions
        self._head_only = self._interim = self._until_eof = self._keep_alive = self._eof = False
        self._uploading = self._writing_paused = False
        self._waiter: Waiter[Any] | asyncio.Future[Any] | None = None  # True: what came was taken, and is enough
        self._drain: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._deadline = 0.0

    # The exchange

    def reusable(self) -> bool:
        """False also when the peer's end or stray bytes wait in the kernel, or behind the answer that is being told of
        in TLS: `is_closing()` does not know of those."""
        if self.state != IDLE or self._transport.is_closing() or self._poll.poll(0):
            return False
        return self._telling_of is None or _is_silent(self._telling_of)

    def usable(self) -> bool:
        """For a connection just made: TLS 1.3 session tickets may wait in the kernel, which are no stray bytes."""
        if self._tls is None:
            return self.reusable()
        return self.state == IDLE and not self._transport.is_closing()

    def send(self, first: bytes, timeouts: Timeouts, *, head_only: bool = False) -> Response:
        """Writes the request, or its beginning, at once: `request_sent` from here on. The answer has yet to arrive."""
        self._response = response = Response(self, timeouts)
        self.state = HEAD
        self._slack = 0
        self._head_only = head_only
        self._transport.write(first)
        return response

    async def upload(self, rest: Sequence[memoryview] | Stream, response: Response) -> None:
        """What follows the beginning of the request, until it is answered or all of it is written."""
        self._uploading = True
        try:
            if isinstance(rest, Stream):
                await self._upload_stream(rest, response.timeouts.idle)
            else:
                await self._upload(rest, response.timeouts.idle)
        except BaseException:
            response.abort()
            raise

    def wait(self, seconds: float) -> Waiter[Any] | asyncio.Future[Any]:
        """Completed when the exchange has moved on; silence for `seconds` fails the exchange."""
        self._waiter = waiting = waiter(self.loop)
        self._arm(seconds)
        return waiting

    def _wake(self) -> None:
        """Whoever waits may run at once, and ask for this very connection again."""
        self._deadline = 0.0
        waiting = self._waiter
        if waiting is not None:
            self._waiter = None
            if not waiting.done():
                waiting.set_result(None)

    def _wake_soon(self) -> None:
        """After a failure: whoever waits sees it in the next turn, when all else is in order."""
        self._deadline = 0.0
        waiting = self._waiter
        if waiting is not None:
            self._waiter = None
            self.loop.call_soon(_tell, waiting)

    def fail(self, error: UpstreamError) -> None:
        """Ends the exchange under way with `error` and closes the socket at once."""
        response = self._response
        if response is not None:
            self._response = response._connection = None
            response.error = error
        self.abort()

    def abort(self) -> None:
        if self.state != CLOSED:
            self.state = CLOSED
            self._transport.abort()
        self._wake_soon()
        self._wake_upload()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _complete(self) -> None:
        response = self._response
        response.complete = True  # type: ignore[union-attr]
        self._response = response._connection = None  # type: ignore[union-attr]
        # Unread request bytes would be taken for the next tenant's: only a connection clean on both sides is kept.
        dirty = self._uploading or self._eof or self.reading_paused or self._transport.get_write_buffer_size()
        if dirty or not self._keep_alive:
            self.abort()
            return
        self.state = IDLE
        if (on_free := self.on_free) is not None:
            on_free(self)
        self._telling_of = self._tls
        self._wake()
        self._telling_of = None

    def _violate(self, what: str) -> None:
        self.fail(ProtocolViolation(f"{self.name}: {what}", request_sent=True))

    # Upload

    def _answered(self) -> bool:
        """No use in sending more: an error is being answered, the answer is complete, or the connection is gone."""
        response = self._response
        return response is None or response.status >= 300

    async def _upload(self, pieces: Sequence[memoryview], idle: float) -> None:
        for piece in pieces:
            if self._answered():
                return
            self._transport.write(piece)
            await self._drained(idle)
        self._uploading = False

    async def _drained(self, idle: float) -> None:
        while self._writing_paused and not self._answered():
            self._drain = self.loop.create_future()
            self._arm(idle)
            await self._drain
        self._deadline = 0.0

    async def _upload_stream(self, stream: Stream, idle: float) -> None:
        """An early answer must end the wait for the caller's next piece, hence the task."""
        task = self.loop.create_task(self._write_pieces(stream, idle))
        task.add_done_callback(lambda _task: self._wake())
        try:
            while not task.done() and not self._answered():
                self._waiter = self.loop.create_future()
                await self._waiter
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled():
                task.exception()  # seen: after an early answer it is of no interest

    async def _write_pieces(self, stream: Stream, idle: float) -> None:
        pieces, left = stream.pieces, stream.length
        try:
            async for piece in pieces:
                if self._answered():
                    return
                if left is None:
                    if piece:  # an empty chunk would end the body
                        # Not `writelines`: asyncio's own transport of Python 3.13.0 pauses nobody for it.
                        self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                else:
                    left -= len(piece)
                    if left < 0:
                        break
                    self._transport.write(piece)
                await self._drained(idle)
            if left:
                raise ValueError("the body is not as long as was said")
            if not self._answered():
                if left is None:
                    self._transport.write(b"0\r\n\r\n")
                self._uploading = False
        finally:
            aclose = getattr(pieces, "aclose", None)
            if aclose is not None:
                await aclose()

    # Time-outs: one timer a connection, moved lazily. Re-arming costs a comparison, not a timer.

    def _arm(self, seconds: float) -> None:
        self._deadline = deadline = self.loop.time() + seconds
        if self._timer is None or self._timer_at > deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self.loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if not self._deadline:
            return
        left = self._deadline - self.loop.time()
        if left > 0.001:
            self._arm(left)
        elif self.state == BODY:
            self.fail(IdleTimeout(f"{self.name}: the body fell silent", request_sent=True))
        elif self._uploading:
            self.fail(WriteTimeout(f"{self.name}: the provider stopped reading the request", request_sent=True))
        else:
            self.fail(FirstByteTimeout(f"{self.name}: no answer in time", request_sent=True))

    # What the transport tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._parser = httptools.HttpResponseParser(self)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)
        self._tls = transport.get_extra_info("ssl_object")
        if self._tls is not None:
            # Undecrypted bytes stay in the kernel, not in a second buffer, which uvloop drops when a FIN follows them.
            self._transport.set_read_buffer_limits(high=1, low=0)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        state = self.state
        response = self._response
        if response is None:
            self.abort()  # bytes that nobody asked for
            return
        self._slack += nbytes
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except httptools.HttpParserError as error:
            if self.state != DONE:
                self._violate(str(error.__context__ or error))
                return
            self._keep_alive = False  # the answer is whole, what follows it is not ours
        if self.state == DONE:
            if nbytes == READ_BYTES:
                self._keep_alive = False  # more may wait behind it within TLS, where `reusable` cannot look
            self._complete()
        elif self._slack > MAX_HEAD_BYTES:
            self._violate(f"more than {MAX_HEAD_BYTES} bytes without a body byte")
        elif response._chunks and response._taker is not None and self.state == state:
            self._hand_over(response, response._taker)
        elif response._chunks or self.state != state:
            self._wake_upload()  # if it still has to wait it sets a time-out anew: `_wake` takes the one there is
            if response.buffered > HIGH_WATER_BYTES or len(response._chunks) > HIGH_WATER_CHUNKS:
                self._pause()
            self._wake()

    def _hand_over(self, response: Response, take: Callable[[bytes], bool]) -> None:
        waiting = self._waiter
        assert waiting is not None
        try:
            if not take(response._take()):
                self._deadline = self.loop.time() + response.timeouts.idle
                return
        except Exception as error:
            # Not told by the waiter: this frame, which the traceback knows, would know the error.
            response._failure = error
        response._taker = None  # what comes from now on waits
        self._deadline = 0.0
        if not waiting.done():
            waiting.set_result(True)

    def _pause(self) -> None:
        if not self.reading_paused:
            self.reading_paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        self.reading_paused = False
        self._transport.resume_reading()

    def eof_received(self) -> None:
        self._eof = True
        if self.state == BODY and self._until_eof and (self._tls is None or _close_notified(self._tls)):
            self._complete()
        else:
            self._transport.abort()  # a plain close would first wait for our request to be taken

    def connection_lost(self, error: Exception | None) -> None:
        why = f"{self.name}: {error or 'connection closed by the provider'}"
        state, self.state = self.state, CLOSED
        if state == BODY:
            self.fail(BodyCut(why, request_sent=True))
        elif self._uploading:
            self.fail(WriteFailed(why, request_sent=True))
        else:
            self.fail(Disconnected(why, request_sent=True))
        # They know us, that of TLS with 256 KiB of its own: what is no cycle needs no collector.
        self._parser = self._transport = self._tls = None
        if self.on_lost is not None:
            self.on_lost(self)

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        self._wake_upload()

    def _wake_upload(self) -> None:
        drain = self._drain
        if drain is not None:
            self._drain = None
            if not drain.done():
                drain.set_result(None)

    # What the parser tells

    def on_message_begin(self) -> None:
        if self.state != HEAD:
            raise ProtocolViolation("a second answer to one request")
        self._headers = []  # trailers of the answer before may be in it

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        headers = self._headers
        self._headers = []  # for trailers, which are dropped
        if len(headers) > MAX_HEAD_FIELDS:
            raise ProtocolViolation(f"a head of more than {MAX_HEAD_FIELDS} fields")
        if self._slack > MAX_HEAD_BYTES and sum(len(n) + len(v) + 4 for n, v in headers) > MAX_HEAD_BYTES:
            raise ProtocolViolation(f"a head of more than {MAX_HEAD_BYTES} bytes")
        status: int = self._parser.get_status_code()
        fields = dict(headers)
        # HTTP/1.1 alone keeps a connection without a word (RFC 9112, 9.3); to ask for the version makes a text of it.
        keeps_by_itself = b"connection" not in fields and self._parser.should_keep_alive()
        version: str = "1.1" if keeps_by_itself else self._parser.get_http_version()
        framed = _check_framing(status, version, headers, fields)
        if status < 200:
            self._interim = True
            return
        response = self._response
        assert response is not None
        response.status = status
        response.headers, response.fields = headers, fields
        self._until_eof = not framed
        self._keep_alive = False
        self.state = DONE if self._head_only else BODY

    def on_body(self, data: bytes) -> None:
        if self.state != BODY:
            raise ProtocolViolation("a body where none may be")
        response = self._response
        response._chunks.append(data)  # type: ignore[union-attr]
        response.buffered += len(data)  # type: ignore[union-attr]
        self._slack = 0

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        elif self.state == BODY:
            self._keep_alive = self._parser.should_keep_alive()
            self.state = DONE


def _tell(waiting: Waiter[Any] | asyncio.Future[Any]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _is_silent(tls: ssl.SSLObject) -> bool:
    """Whether nothing has come behind what was handed over, not even an end."""
    try:
        tls.read(1)
    except ssl.SSLError as error:
        return isinstance(error, ssl.SSLWantReadError)
    return False


def _close_notified(tls: ssl.SSLObject) -> bool:
    try:
        return tls.read(1) == b""
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:
        return False


def _check_framing(status: int, version: str, headers: list[tuple[bytes, bytes]], fields: dict[bytes, bytes]) -> bool:
    """True when the answer says itself where it ends. Two readings of one message are how answers get smuggled."""
    if not 100 <= status <= 599 or version not in ("1.1", "1.0"):
        raise ProtocolViolation(f"status {status} in HTTP/{version}")
    if status == 101:
        raise ProtocolViolation("switched protocols unasked")
    length = fields.get(b"content-length")
    coding = fields.get(b"transfer-encoding")
    if len(fields) != len(headers):
        names = [name for name, _ in headers]
        if names.count(b"content-length") > 1 or names.count(b"transfer-encoding") > 1:
            raise ProtocolViolation("repeated Content-Length or Transfer-Encoding")
    if coding is not None and (length is not None or version != "1.1" or coding.strip().lower() != b"chunked"):
        raise ProtocolViolation("a Transfer-Encoding that is not exactly chunked, or beside a Content-Length")
    if status < 200:
        if length is not None or coding is not None:
            raise ProtocolViolation("an interim answer with a body")
        return True
    return length is not None or coding is not None or status in (204, 304)
