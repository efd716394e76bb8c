"""A scripted provider on loopback: real sockets, every byte under the test's control, every request kept."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    def json(self):
        return json.loads(self.body)


Script = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


def head(status: int = 200, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} X", *headers, "", ""]).encode()


def answer(status: int = 200, body: object = None, *headers: str) -> Script:
    """One complete JSON (or bytes) answer."""
    data = body if isinstance(body, bytes) else json.dumps(body if body is not None else plain()).encode()

    async def play(request: Request, writer: asyncio.StreamWriter) -> None:
        fields = ("content-type: application/json", f"content-length: {len(data)}", "x-request-id: req_1", *headers)
        writer.write(head(status, *fields) + data)

    return play


def plain(text: str = "Hello there") -> dict:
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o",
        "choices": [choice],
        "usage": USAGE,
    }


def chunk(text: str | None = None, **fields: object) -> bytes:
    delta = {"content": text} if text is not None else {}
    finish = None if text is not None else "stop"
    choices = [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]
    data = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", "choices": choices}
    return b"data: " + json.dumps({**data, "usage": None, **fields}, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
HELLO = [chunk("Hel"), chunk("lo"), chunk(), chunk(choices=[], usage=USAGE), DONE]
STREAM_HEAD = head(200, "content-type: text/event-stream; charset=utf-8", "transfer-encoding: chunked")


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream(parts: list[bytes] | None = None, *, finish: bool = True, gate: asyncio.Event | None = None) -> Script:
    """Events as chunks; waits for the gate before the last part; without `finish` the socket closes mid-body."""

    async def play(request: Request, writer: asyncio.StreamWriter) -> None:
        events = HELLO if parts is None else parts
        writer.write(STREAM_HEAD)
        for number, event in enumerate(events):
            if gate is not None and number == len(events) - 1:
                await gate.wait()
            writer.write(framed(event))
            await writer.drain()
        if finish:
            writer.write(b"0\r\n\r\n")
        else:
            writer.close()

    return play


@dataclass
class Provider:
    """Plays `scripts` in order, then `default`. `left` counts connections that the proxy gave up mid-answer."""

    default: Script = field(default_factory=answer)
    scripts: list[Script] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    connections: int = 0
    port: int = 0
    keeps_bodies: bool = True  # else they are counted only, and let go
    received: int = 0  # bytes of bodies

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def start(self) -> None:
        self._tasks: set[asyncio.Task] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        self.connections += 1
        try:
            while not writer.is_closing():
                request = await self._read(reader)
                self.requests.append(request)
                self.arrived.set()
                script = self.scripts.pop(0) if self.scripts else self.default
                watch = asyncio.ensure_future(reader.read(1))
                watch.add_done_callback(lambda task: task.cancelled() or task.exception())  # a reset is no news
                play = asyncio.ensure_future(script(request, writer))
                await asyncio.wait({watch, play}, return_when=asyncio.FIRST_COMPLETED)
                if watch.done() and not play.done():
                    self.left.set()
                    play.cancel()
                    break
                await play
                await writer.drain()
                if watch.done():
                    break
                watch.cancel()
                await asyncio.gather(watch, return_exceptions=True)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Request:
        raw = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = raw[:-4].split("\r\n")
        method, target, _ = line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        if headers.get("transfer-encoding") == "chunked":
            return Request(method, target, headers, await self._chunks(reader))
        return Request(method, target, headers, await self._body(reader, int(headers.get("content-length", 0))))

    async def _chunks(self, reader: asyncio.StreamReader) -> bytes:
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await self._body(reader, size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        return body

    async def _body(self, reader: asyncio.StreamReader, size: int) -> bytes:
        body = bytearray()
        while size:
            piece = await reader.read(min(size, 1 << 16))
            if not piece:
                raise asyncio.IncompleteReadError(b"", size)
            size -= len(piece)
            self.received += len(piece)
            self.arrived.set()
            if self.keeps_bodies:
                body += piece
        return bytes(body)
